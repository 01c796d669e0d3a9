"""What timm would load from a file: its own filters, first convolutions and label offsets.

Nothing of it is copied here. timm's own ``load_pretrained`` does the work, on a network whose
``load_state_dict`` only takes down what it is given.
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
from headstrip.plugin_api import plain_state_dict, without_memory

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where timm's ``load_state_dict`` looks for the weights of a checkpoint, in its order."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Recipe:
    """How timm loads weights into a network.

    Attributes:
        filter_fn: Turns a file's tensors into the network's, None where they are.
        strict: Whether unknown and missing tensors are an error.
        in_chans: Channels of the network's input.
    """

    filter_fn: Callable[..., Any] | None
    strict: bool
    in_chans: int


def adapted(loaded: object, model: nn.Module, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict that timm would load into a network from what a file holds.

    Where the file has other classes than the network, its own head is in it. A first convolution
    that fits the network stays as it is, whatever the number of its channels.

    Args:
        loaded: The object as read, perhaps nested.
        model: A network of timm; its tensors may be on the meta device.
        options: What it was built with by ``timm.create_model``.

    Raises:
        WeightsError: The file holds no tensors under names, or timm's filter fails on it.
    """
    stated: Any = model.pretrained_cfg
    file = _unwrapped(loaded)
    config = {**stated, "state_dict": file, "source": "", "label_offset": _offset(stated, file)}
    name = config["architecture"]
    try:
        state, strict = _loaded(model, config, recipe_of(name, options))
    except Exception as error:
        # The filters raise what they happen to meet: KeyError, RuntimeError, ValueError and more.
        if _has_other_shapes(file, model):
            # Core compares it with the network, and says which tensors do not fit.
            return plain_state_dict(file)
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"timm cannot read the file as weights of {name} ({type(error).__name__}: {reason}). "
            "Name the backbone that it was made for."
        ) from error
    state = plain_state_dict(dict(state))
    if strict:
        return state
    # Where timm is not strict, it passes over what the network has no place for, and norms that
    # the file lacks stay as they are built.
    own = model.state_dict()
    return {**_fresh_norms(model), **{key: value for key, value in state.items() if key in own}}


def _has_other_shapes(file: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether a file has the network's own names, and some of its tensors other shapes."""
    own = model.state_dict()
    both = [name for name in own if isinstance(file.get(name), Tensor)]
    differ = any(file[name].shape != own[name].shape for name in both)
    return 2 * len(both) > len(own) and differ


def _unwrapped(loaded: object) -> dict[str, Tensor]:
    """Return the tensors that timm takes from a checkpoint, without prefixes in their names."""
    state: Any = loaded
    if isinstance(state, Mapping):
        inner = (state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping))
        state = next(inner, state)
    has_tensors = isinstance(state, Mapping) and any(isinstance(v, Tensor) for v in state.values())
    if not has_tensors or not all(isinstance(k, str) for k in state):
        # Other programs have other wrappers; without any, it says what is wrong with the file.
        state = plain_state_dict(loaded)
    return dict(without_prefixes(dict(state)))


def _offset(config: Mapping[str, Any], file: Mapping[str, Any]) -> int:
    """Return how many classes before the first are to be cut, none where the file has none."""
    offset = config.get("label_offset") or 0
    classifier = config.get("classifier")
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    head = file.get(f"{names[0]}.weight") if names else None
    fits = isinstance(head, Tensor) and len(head) == config["num_classes"] + offset
    return int(offset) if fits else 0


def _loaded(
    model: nn.Module, config: dict[str, Any], recipe: Recipe
) -> tuple[Mapping[str, Tensor], bool]:
    """Return what timm's ``load_pretrained`` gives the network, and whether strictly."""

    def filtered(state: Any, *network: nn.Module) -> Any:
        # timm leaves out the argument for a filter that takes it not.
        state = recipe.filter_fn(state, *network) if recipe.filter_fn else state
        if _first_fit(model, config, state):
            # Older releases of timm would make of them what they make of three channels.
            config["first_conv"] = None
        return state

    with _taken_down(model) as taken:
        load_pretrained(
            model,
            pretrained_cfg=config,
            # The file's own classes: core builds the head that fits them.
            num_classes=config["num_classes"],
            in_chans=recipe.in_chans,
            filter_fn=filtered,
            strict=recipe.strict,
        )
    return taken[0]


def _fresh_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the values with which layer and group norms are built."""
    return {
        f"{name}.{leaf}": torch.full(parameter.shape, float(leaf == "weight"))
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def _first_fit(model: nn.Module, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether the first convolutions in a state dict are as the network's."""
    first, own = config.get("first_conv"), model.state_dict()
    names = [f"{name}.weight" for name in ((first,) if isinstance(first, str) else first or ())]
    return all(
        name in state and name in own and state[name].shape == own[name].shape for name in names
    )


@contextmanager
def _taken_down(model: nn.Module) -> Iterator[list[tuple[Mapping[str, Tensor], bool]]]:
    """Have a network take down what it is to load, and whether strictly, instead of loading it."""
    taken: list[tuple[Mapping[str, Tensor], bool]] = []

    def load_state_dict(state: Any, strict: bool = True, assign: bool = False) -> Any:
        taken.append((state, strict))
        return _IncompatibleKeys([], [])

    vars(model)["load_state_dict"] = load_state_dict
    try:
        yield taken
    finally:
        del vars(model)["load_state_dict"]


def recipe_of(architecture: str, options: Mapping[str, Any]) -> Recipe:
    """Find out how timm loads weights into an architecture built with some options.

    Its constructors hand the filter to ``load_pretrained``, and nowhere else is it written down
    for all: so one is built, with a ``load_pretrained`` that only takes it down. What other threads
    load meanwhile, they load.
    """
    taken: list[Recipe] = []
    thread = threading.get_ident()

    def take(model: nn.Module, *positional: Any, **arguments: Any) -> None:
        if threading.get_ident() != thread:
            original(model, *positional, **arguments)
            return
        taken.append(Recipe(arguments["filter_fn"], arguments["strict"], arguments["in_chans"]))

    with _lock:
        original = _builder.load_pretrained
        _builder.load_pretrained = take
        try:
            _build(architecture, {**options, "pretrained": True})
        finally:
            _builder.load_pretrained = original
    return taken[0]


def _build(architecture: str, options: Mapping[str, Any]) -> None:
    """Build a network without memory, and for real where its constructor computes with tensors."""
    try:
        with without_memory():
            timm.create_model(architecture, **options)
    except RuntimeError:
        with torch.random.fork_rng(devices=[]):
            timm.create_model(architecture, **options)
