"""Compute the tensors that timm would load from a file, with its filters and label offsets.

This module copies no code of timm. It calls timm's ``load_pretrained`` on a network whose
``load_state_dict`` only records its arguments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import _builder, load_pretrained
from timm.models import clean_state_dict as without_prefixes
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from headstrip import WeightsError
from headstrip.plugin_api import one_line, plain_state_dict, without_memory

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which timm looks for the weights in a checkpoint, in timm's order."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Recipe:
    """How timm loads weights into a network.

    Attributes:
        filter_fn: Converts a file's tensors to the network's, None if they need no conversion.
        strict: Whether unknown and missing tensors are an error.
        in_chans: Number of input channels.
    """

    filter_fn: Callable[..., Any] | None
    strict: bool
    in_chans: int


def adapted(loaded: object, model: nn.Module, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict that timm would load into a network from a file's content.

    If the file has other classes than the network, the result contains the file's head. A first
    convolution that fits the network is not changed, whatever its number of channels.

    Args:
        loaded: The content of the file, which may be nested.
        model: A timm network. Its tensors may be on the meta device.
        options: Options that were passed to ``timm.create_model``.

    Raises:
        WeightsError: The file contains no named tensors, or timm's filter fails on it.
    """
    stated: Any = model.pretrained_cfg
    file = _unwrapped(loaded)
    config = {**stated, "state_dict": file, "source": "", "label_offset": _offset(stated, file)}
    name = config["architecture"]
    try:
        state, strict = _loaded(model, config, recipe_of(name, options))
    except Exception as error:
        # timm's filters raise many types: KeyError, RuntimeError, ValueError and more.
        if _has_other_shapes(file, model):
            # headstrip compares it with the network, and reports which tensors do not fit.
            return plain_state_dict(file)
        reason = one_line(error, 200)
        raise WeightsError(
            f"timm cannot read the file as weights of {name} ({type(error).__name__}: {reason}). "
            "Pass the name of the backbone that it was saved from."
        ) from error
    state = plain_state_dict(dict(state))
    if strict:
        return state
    # If timm is not strict, it ignores tensors that the network lacks, and norms that the file
    # lacks keep their initial values.
    own = model.state_dict()
    return {**_fresh_norms(model), **{key: value for key, value in state.items() if key in own}}


def _has_other_shapes(file: Mapping[str, Any], model: nn.Module) -> bool:
    """Return whether a file has the network's names, but some tensors have other shapes."""
    own = model.state_dict()
    both = [name for name in own if isinstance(file.get(name), Tensor)]
    differ = any(file[name].shape != own[name].shape for name in both)
    return 2 * len(both) > len(own) and differ


def _unwrapped(loaded: object) -> dict[str, Tensor]:
    """Return the tensors that timm reads from a checkpoint, without prefixes in their names."""
    state: Any = loaded
    if isinstance(state, Mapping):
        inner = (state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping))
        state = next(inner, state)
    has_tensors = isinstance(state, Mapping) and any(isinstance(v, Tensor) for v in state.values())
    if not has_tensors or not all(isinstance(k, str) for k in state):
        # `plain_state_dict` knows the formats of other programs, or raises an error.
        state = plain_state_dict(loaded)
    return dict(without_prefixes(dict(state)))


def _offset(config: Mapping[str, Any], file: Mapping[str, Any]) -> int:
    """Return how many classes to cut at the beginning: 0 if the file has no extra classes."""
    offset = config.get("label_offset") or 0
    classifier = config.get("classifier")
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    head = file.get(f"{names[0]}.weight") if names else None
    fits = isinstance(head, Tensor) and len(head) == config["num_classes"] + offset
    return int(offset) if fits else 0


def _loaded(
    model: nn.Module, config: dict[str, Any], recipe: Recipe
) -> tuple[Mapping[str, Tensor], bool]:
    """Return the state dict that timm's ``load_pretrained`` would load, and its ``strict``."""
    kept: dict[str, Tensor] = {}

    def filtered(state: Any, *network: nn.Module) -> Any:
        # timm passes the network only to filters that take it.
        state = recipe.filter_fn(state, *network) if recipe.filter_fn else state
        if first := _first_fit(model, config, state, recipe.in_chans):
            # Older releases of timm would convert them as if they had three channels, and newer
            # ones refuse a network that headstrip gave other channels.
            config["first_conv"] = None
            kept.update({name: state[name] for name in first})
            state = {name: one for name, one in state.items() if name not in first}
        return state

    with _recorded_loads(model) as recorded:
        load_pretrained(
            model,
            pretrained_cfg=config,
            # Keep the file's classes: headstrip builds the head that fits them.
            num_classes=config["num_classes"],
            in_chans=recipe.in_chans,
            filter_fn=filtered,
            strict=recipe.strict,
        )
    state, strict = recorded[0]
    return {**state, **kept}, strict


def _fresh_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the initial values of layer and group norms."""
    return {
        f"{name}.{leaf}": torch.full(parameter.shape, float(leaf == "weight"))
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def _first_fit(
    model: nn.Module, config: Mapping[str, Any], state: Mapping[str, Tensor], in_chans: int
) -> list[str]:
    """Return the weights of the first convolutions, if none of them needs other channels.

    They have the shapes of the network, or the channels for which timm built it.
    """
    first, own = config.get("first_conv"), model.state_dict()
    names = [f"{name}.weight" for name in ((first,) if isinstance(first, str) else first or ())]
    fits = all(
        name in state
        and name in own
        and (state[name].shape == own[name].shape or state[name].shape[1:2] == (in_chans,))
        for name in names
    )
    return names if fits else []


@contextmanager
def _recorded_loads(model: nn.Module) -> Iterator[list[tuple[Mapping[str, Tensor], bool]]]:
    """Make a network record state dicts and ``strict`` instead of loading them."""
    recorded: list[tuple[Mapping[str, Tensor], bool]] = []

    def load_state_dict(state: Any, strict: bool = True, assign: bool = False) -> Any:
        recorded.append((state, strict))
        return _IncompatibleKeys([], [])

    vars(model)["load_state_dict"] = load_state_dict
    try:
        yield recorded
    finally:
        del vars(model)["load_state_dict"]


def recipe_of(architecture: str, options: Mapping[str, Any]) -> Recipe:
    """Find out how timm loads weights into an architecture with some options.

    timm's constructors pass the filter to ``load_pretrained``, and it is stated nowhere else. So
    this function builds the network with a ``load_pretrained`` that only records its arguments.
    Other threads can load weights as usual during that time.
    """
    recorded: list[Recipe] = []
    thread = threading.get_ident()

    def record(model: nn.Module, *positional: Any, **arguments: Any) -> None:
        if threading.get_ident() != thread:
            original(model, *positional, **arguments)
            return
        recorded.append(Recipe(arguments["filter_fn"], arguments["strict"], arguments["in_chans"]))

    with _lock:
        original = _builder.load_pretrained
        _builder.load_pretrained = record
        try:
            _build(architecture, {**options, "pretrained": True})
        finally:
            _builder.load_pretrained = original
    return recorded[0]


def _build(architecture: str, options: Mapping[str, Any]) -> None:
    """Build a network on the meta device, or with values if its constructor needs them."""
    try:
        with without_memory():
            timm.create_model(architecture, **options)
    except RuntimeError:
        with torch.random.fork_rng(devices=[]):
            timm.create_model(architecture, **options)
