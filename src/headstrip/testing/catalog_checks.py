"""Checks of the values in the catalog and of the parts of a stripped network.

They need no memory, because the network is on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headstrip.errors import PluginError, one_line
from headstrip.factory.measure import completed, measure
from headstrip.network.head import Stripped
from headstrip.network.state_dicts import is_under
from headstrip.registry.catalog import format_shape, row_of_spec
from headstrip.registry.index import row_problem
from headstrip.registry.registry import Registry
from headstrip.system.arguments import type_of
from headstrip.testing.report import CheckFailed, CheckSkipped
from headstrip.testing.states import blocked_network, some, tensors_of
from headstrip.testing.subject import Subject, storage

_listed: WeakKeyDictionary[Registry, dict[str, str | None]] = WeakKeyDictionary()


def listing(subject: Subject) -> str:
    """Listing and resolving make no network call, and headstrip accepts every row of the plugin."""
    known = _listed.setdefault(subject.registry, {})
    plugin = subject.spec.plugin
    if plugin not in known:
        known[plugin] = _listing_problem(subject)
    problem = known[plugin]
    if problem:
        raise CheckFailed(problem)
    with blocked_network() as calls:
        found, _ = subject.registry.resolve(subject.name)
        subject.registry.listed_weights(found)
    if calls:
        raise CheckFailed(f"resolving the name called {calls[0]}, but must not use the network")
    if found != subject.spec and completed(found, subject.registry) != subject.spec:
        raise CheckFailed(f"{subject.name!r} resolves to {found}, but is listed as {subject.spec}")
    return "listed and resolved without a network"


def _listing_problem(subject: Subject) -> str | None:
    """Return what is wrong with how the owner lists its backbones, or None."""
    with blocked_network() as calls:
        own = Registry()
        own.specs()
        subject.owner.call("backbones", subject.name)
    if calls:
        return f"importing or listing the plugin called {calls[0]}, but must not use the network"
    records = (*subject.registry.records(), *own.records())
    error = next((r.error for r in records if r.name == subject.spec.plugin and r.error), None)
    return f"`headstrip plugins` reports about {subject.spec.plugin!r}: {error}" if error else None


def build(subject: Subject) -> str:
    """The owner builds the network, strip_head removes its head, and both run on their input."""
    light = subject.light
    if subject.level != "real":
        return f"built, stripped and measured at {format_shape(light.shape)}"
    return f"built, stripped and run at {format_shape(subject.pair.shape)}"


def catalog(subject: Subject) -> str:
    """The row can be written and read back, and its input and parameters are right."""
    spec, light = subject.spec, subject.light
    is_built_in = subject.owner.origin == "built-in"
    problem = None if is_built_in else row_problem(spec, subject.owner.name)
    if problem:
        raise CheckFailed(problem)
    row_of_spec(spec)
    claims = {
        "input_shape": (spec.input_shape, light.shape),
        "params": (spec.params, light.params),
    }
    wrong = [
        f"{name} {claimed}, but the network has {seen}"
        for name, (claimed, seen) in claims.items()
        if claimed != seen
    ]
    axes = 4 if spec.task == "video" else 3
    if len(light.shape) != axes:
        wrong.append(
            f"the task {spec.task!r}, whose input has {axes} axes, but the input is {light.shape}"
        )
    if wrong:
        raise CheckFailed(f"the catalog claims {'; '.join(wrong)}")
    return f"{light.params} parameters, input {format_shape(light.shape)}"


def width(subject: Subject) -> str:
    """The catalog's width, the measured width and the width of the output are equal."""
    seen = {"the catalog claims": subject.spec.dim, "meta gives": subject.light.dim}
    if subject.level == "real":
        seen["meta gives after a real build"] = subject.pair.dim
        seen["the forward pass gives"] = subject.pair.embedding.shape[1]
    if subject.level == "once":
        seen["one real forward pass gives"] = subject.real_width
    if len(set(seen.values())) > 1:
        raise CheckFailed(
            f"the widths differ: {', '.join(f'{how} {n}' for how, n in seen.items())}"
        )
    return f"{subject.spec.dim} wide"


def law(subject: Subject) -> str:
    """The catalog has the head fidelity that strip_head states."""
    seen = subject.light.stripped.law
    if subject.spec.law != seen:
        raise CheckFailed(
            f"the catalog claims law={subject.spec.law!r}, but strip_head states {seen!r}"
        )
    return seen


def parameters(subject: Subject) -> str:
    """The backbone contains no tensor of the head, and all other tensors of the network."""
    light, stripped = subject.light, subject.light.stripped
    backbone = tensors_of(stripped.backbone)
    head = tensors_of(stripped.head) if stripped.head else {}
    untouched = light.tensors
    of_heads = _only_under(untouched, stripped.paths)
    rest = {name: tensor for name, tensor in untouched.items() if name not in of_heads}
    of_head = _only_under(untouched, stripped.paths[:1]) if stripped.head else {}
    named = [name for name in backbone if is_under(name, stripped.paths)]
    problems = {
        "the backbone still has tensors of the head:": [*_shared(of_heads, backbone), *named],
        "the backbone lacks": _missing(rest, backbone),
        "the backbone has tensors that the untouched network lacks:": _missing(backbone, untouched),
        "the head has tensors that the untouched network lacks:": _missing(head, untouched),
        "the head lacks": _missing(of_head, head),
    }
    wrong = [f"{what} {some(dict.fromkeys(names))}" for what, names in problems.items() if names]
    if wrong:
        raise CheckFailed(f"with heads at {some(stripped.paths) or 'no path'}, {'; '.join(wrong)}")
    return f"{len(backbone)} tensors in the backbone, {len(of_heads)} of the head"


def _only_under(tensors: Mapping[str, Tensor], paths: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors under some paths that the rest of the network does not use too."""
    under = {name: tensor for name, tensor in tensors.items() if is_under(name, paths)}
    rest = {name: tensor for name, tensor in tensors.items() if name not in under}
    return {name: under[name] for name in _missing(under, rest)}


def _shared(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that share memory with ``others``."""
    known = {storage(tensor) for tensor in others.values()}
    return [name for name, tensor in tensors.items() if storage(tensor) in known]


def _missing(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that do not share memory with ``others``."""
    shared = _shared(tensors, others)
    return [name for name in tensors if name not in shared]


def head(subject: Subject) -> str:
    """The head maps (N, dim) to (N, classes), and is the layer that gives the network's logits."""
    light, entry = subject.light, subject.entry
    if light.stripped.head is None:
        raise CheckSkipped(f"law={light.stripped.law!r} means that there is no head")
    shape = head_output(light.stripped, light.dim)
    if len(shape) != 2 or shape[0] != 2:
        raise CheckFailed(f"the head maps (2, {light.dim}) to {shape} instead of (2, classes)")
    subject.check_head_gives_logits()
    return f"{light.dim} to {shape[1]}" + (f", weights {entry.tag}" if entry else "")


def classes(subject: Subject) -> str:
    """build_model understands the option num_classes."""
    default = subject.light
    light = subject.build_light(subject.entry, {"num_classes": 7})
    if light.stripped.head is None:
        return f"built with 7 classes, law={default.stripped.law!r}"
    shape = head_output(light.stripped, light.dim)
    if shape[-1] != 7:
        raise CheckFailed(f"built with num_classes=7, its head gives {shape[-1]} classes")
    return "num_classes=7 gives 7 classes"


def input_options(subject: Subject) -> str:
    """The options in INPUT_OPTIONS set the channels and the size of the input."""
    options = subject.owner.input_options
    if not options:
        return "the plugin has no INPUT_OPTIONS"
    channels, *sizes = subject.light.shape
    size: Any = sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
    asked = {
        "in_chans": (channels + 2, (channels + 2, *sizes)),
        "img_size": (size, (channels, *sizes)),
    }
    seen = []
    for name, option in options.items():
        value, wanted = asked[name]
        try:
            shape = subject.build_light(subject.entry, {option: value}).shape
        except PluginError as error:
            # An architecture may lack the option, for example because it takes any size.
            seen.append(f"{option} is refused ({one_line(error, 80)})")
            continue
        if shape != wanted:
            raise CheckFailed(
                f"INPUT_OPTIONS names {option!r} for {name}, but built with {option}={value!r} the "
                f"input is {format_shape(shape)} instead of {format_shape(wanted)}"
            )
        seen.append(f"{option}={value!r} gives {format_shape(shape)}")
    return "; ".join(seen)


def sizes(subject: Subject) -> str:
    """The network accepts the image sizes that the catalog states."""
    claimed = subject.spec.sizes
    if claimed is None:
        raise CheckSkipped("the catalog states no sizes")
    subject.light  # noqa: B018 - a backbone that cannot be built fails in ``build`` alone
    seen = measure(subject.spec, registry=subject.registry, sizes=True).sizes
    if seen != claimed:
        raise CheckFailed(f"the catalog claims the sizes {claimed!r}, but they are {seen!r}")
    return claimed


def head_output(stripped: Stripped, dim: int) -> tuple[int, ...]:
    """Return the shape of a head's output for two embeddings.

    Raises:
        CheckFailed: The output is not a tensor.
    """
    if stripped.head is None:
        return ()
    tensor = next(iter(stripped.head.state_dict().values()), torch.empty(0))
    with torch.no_grad():
        output = stripped.head.eval()(torch.zeros(2, dim, device=tensor.device))
    if not isinstance(output, Tensor):
        raise CheckFailed(f"the head gives {type_of(output)} instead of a tensor of logits")
    return tuple(output.shape)
