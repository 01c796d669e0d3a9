"""Build the two networks of `prove_builds.py`, and compare them."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstrip.factory.maker import strip_with
from headstrip.network.head import Stripped
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.testing import perturb
from headstrip.testing.perturb import FastRandom

_SEED = 0
_LARGE = 30_000_000
# Attributes of nn.Module itself. Parameters, buffers and modules are visited by name.
_MODULE_STATE = set(vars(nn.Module())) - {"training", "_non_persistent_buffers_set"}
_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def write_weights(name: str, path: Path) -> None:
    """Build a network, perturb its values so that each one matters, and write its state dict."""
    spec, entry = _described(name)
    model = _built(spec, entry)
    torch.manual_seed(_SEED + 1)
    with FastRandom():
        perturb(model)
    torch.save(model.state_dict(), path)


def ordinary(name: str, path: Path) -> Stripped:
    """Build a network the ordinary way from a file, and remove its head."""
    registry = get_registry()
    spec, entry = _described(name)
    model = _built(spec, entry)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state = registry.owner(spec).call(
        "adapt_state_dict", name, loaded=loaded, model=model, entry=entry
    )
    ordered = OrderedDict(state)
    ordered._metadata = loaded._metadata  # type: ignore[attr-defined]
    model.load_state_dict(ordered, strict=True, assign=False)
    plugin, own = registry.stripper(spec.family)
    return strip_with(plugin, own, model.eval(), spec, entry, name)


def in_eval(stripped: Stripped) -> Stripped:
    """Set both parts to eval mode, like an encoder: stripping may create new modules."""
    for part in (stripped.backbone, stripped.head):
        if part is not None:
            part.eval()
    return stripped


def _described(name: str) -> tuple[BackboneSpec, WeightsEntry | None]:
    registry = get_registry()
    spec, _ = registry.resolve(name)
    entries = registry.weights(spec)
    return spec, entries[0] if entries else None


def _built(spec: BackboneSpec, entry: WeightsEntry | None) -> nn.Module:
    options = {**dict(spec.options), **dict(entry.options if entry else ())}
    torch.manual_seed(_SEED)
    if spec.params <= _LARGE:
        return _model(spec, options)
    with FastRandom():
        return _model(spec, options)


def _model(spec: BackboneSpec, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = (
        get_registry()
        .owner(spec)
        .call("build_model", spec.qualified_name, spec=spec, options=options)
    )
    return model


def differences(one: Stripped, other: Stripped) -> tuple[list[str], int]:
    """Compare two stripped networks. Return the differences and the number of tensors."""
    seen = [] if one.law == other.law else [f"head fidelity: {one.law}, {other.law}"]
    mine, theirs = dict(_all_of(one)), dict(_all_of(other))
    seen += [f"{path} is in only one of them" for path in mine.keys() ^ theirs.keys()]
    seen += [
        f"{path}: {_shown(mine[path])}, {_shown(theirs[path])}"
        for path in mine.keys() & theirs.keys()
        if not same(mine[path], theirs[path])
    ]
    ties = _ties(theirs)
    untied = [path for path, first in _ties(mine).items() if ties.get(path, first) != first]
    seen += [f"{path}: shared with another name in one of them" for path in untied]
    return sorted(seen), sum(isinstance(value, Tensor) for value in mine.values())


def _ties(values: dict[str, Any]) -> dict[str, str]:
    """Return, for the name of each tensor, the first name of the same tensor."""
    first: dict[int, str] = {}
    tensors = {path: value for path, value in values.items() if isinstance(value, Tensor)}
    return {path: first.setdefault(id(value), path) for path, value in tensors.items()}


def _all_of(stripped: Stripped) -> Iterator[tuple[str, Any]]:
    for part, network in (("backbone", stripped.backbone), ("head", stripped.head)):
        if network is not None:
            yield from _network(part, network, ())


def _network(path: str, network: nn.Module, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield all values of a network: its tensors, and the values in attributes of modules."""
    named = list(network.named_modules(prefix=path, remove_duplicate=False))
    above = (*above, *(id(module) for _, module in named))
    for name, module in named:
        yield f"{name} (class)", f"{type(module).__module__}.{type(module).__qualname__}"
        for table in (module._parameters, module._buffers):
            yield from ((f"{name}.{own}", value) for own, value in table.items())
        for own, value in vars(module).items():
            if own not in _MODULE_STATE:
                yield from _inside(f"{name}.{own}", value, above)


def _inside(path: str, value: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield tensors, arrays and numbers in a value, in containers and objects at any depth."""
    if value is None or isinstance(value, (Tensor, np.ndarray, *_PLAIN)):
        yield path, value
        return
    if isinstance(value, type) or id(value) in above:
        return
    if isinstance(value, nn.Module):
        # A module in a list or an object is not registered in its parent.
        yield from _network(path, value, above)
        return
    for name, item in _parts(value):
        yield from _inside(f"{path}{name}", item, (*above, id(value)))


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{position}]", item) for position, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(f"{{{position}}}", item) for position, item in enumerate(sorted(value, key=repr))]
    if isinstance(value, functools.partial):
        return [("(args)", value.args), ("(keywords)", value.keywords)]
    if isinstance(value, FunctionType):
        cells = enumerate(value.__closure__ or ())
        return [(f"(closure {position})", cell.cell_contents) for position, cell in cells]
    return [(f".{name}", item) for name, item in getattr(value, "__dict__", {}).items()]


def same(one: Any, other: Any) -> bool:
    """Return whether two values have the same type and bits, and tensors the same layout."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _about(one) == _about(other) and torch.equal(_bytes(one), _bytes(other))
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and (one.tobytes() == other.tobytes())
        )
    return repr(one) == repr(other)


def _about(tensor: Tensor) -> tuple[Any, ...]:
    # The stride of an axis with one entry has no meaning.
    strides = [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return tensor.dtype, tensor.shape, tensor.device, tensor.requires_grad, strides


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def _shown(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} {tuple(value.shape)} {value.dtype}"
    return f"{value!r:.60}"
