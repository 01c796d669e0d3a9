"""State dicts: taken out of what a file holds, compared with a network, and put into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.errors import WeightsError

# Files older than torch 0.4.1, and converted ones, have none of these; no output depends on them.
_COUNTER = "num_batches_tracked"
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def plain_state_dict(loaded: object) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, unwrapped where it is a checkpoint's entry.

    Args:
        loaded: The object as read: a state dict, or a dict with one under ``state_dict``,
            ``model_state_dict`` or ``model``.

    Raises:
        WeightsError: There is no mapping of names to tensors in it.
    """
    state = _unwrapped(loaded)
    if (
        not isinstance(state, dict)
        or not state
        or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        )
    ):
        raise WeightsError(
            f"The file holds a {type(loaded).__name__} and no state dict, a mapping of names to "
            "tensors. Save model.state_dict()."
        )
    return state


def _unwrapped(loaded: object) -> Any:
    state: Any = loaded
    # One step for each at most: a damaged checkpoint may hold itself.
    for _ in _WRAPPERS:
        if isinstance(state, Mapping):
            inner = (state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping))
            state = next(inner, state)
    return state


@dataclass(frozen=True, slots=True)
class Fit:
    """How a state dict fits a network.

    Attributes:
        missing: Names that the network has and the file lacks.
        unexpected: Names that the file has and the network lacks.
        reshaped: Names that both have, with another shape.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names that do not fit."""
        return (*self.missing, *self.unexpected, *self.reshaped)

    def outside(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that do not fit and are under none of the dotted ``paths``."""
        return tuple(name for name in self.names if not is_under(name, paths))


def is_under(name: str, paths: tuple[str, ...]) -> bool:
    """Whether a tensor's name is any of some dotted paths, or under one of them."""
    return name in paths or name.startswith(tuple(f"{path}." for path in paths))


def compare(model: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Compare the names and shapes of a state dict with those of a network."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(_COUNTER)]
    return Fit(
        tuple(missing),
        tuple(key for key in state if key not in own),
        tuple(key for key in own if key in state and own[key].shape != state[key].shape),
    )


def copy_into(
    model: nn.Module, state: Mapping[str, Tensor], source: object, *, headless: bool = False
) -> None:
    """Copy a state dict that was compared with the network before into its tensors.

    Args:
        model: The network, with memory.
        state: The adapted state dict.
        source: The object as read, whose versions of modules are carried over.
        headless: Whether the head's tensors are missing, and stay as they are.

    Raises:
        WeightsError: A tensor is of another kind than the network's.
    """
    model.load_state_dict(ordered_state(model.state_dict(), state, source), strict=not headless)


def ordered_state(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object
) -> OrderedDict[str, Tensor]:
    """Return a state dict that a network takes strictly: with the counters that old files lack.

    The versions of modules that ``source`` states are carried over, and those that it does not
    state are the network's own: some modules (MNASNet's) refuse to load without.

    Args:
        own: The network's state dict.
        state: The adapted one.
        source: The object as read.

    Raises:
        WeightsError: A tensor is of another kind than the network's.
    """
    _check_kinds(own, state)
    counters = {key: own[key] for key in own if key.endswith(_COUNTER) and key not in state}
    ordered = OrderedDict({**state, **counters})
    versions = getattr(_unwrapped(source), "_metadata", None)
    stated = versions if isinstance(versions, Mapping) else {}
    merged = {**getattr(own, "_metadata", {}), **stated}
    # torch writes how it assigns into them, and the next load of the same file would read that.
    copies = {key: dict(one) if isinstance(one, Mapping) else one for key, one in merged.items()}
    ordered._metadata = copies  # type: ignore[attr-defined]
    return ordered


def _check_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that copying would change in silence: whole numbers, complex or sparse ones.

    Raises:
        WeightsError: There is one.
    """
    for name in own.keys() & state.keys():
        mine, other = own[name], state[name]
        if (
            mine.is_floating_point() != other.is_floating_point()
            or mine.is_complex() != other.is_complex()
            or other.layout is not torch.strided
            or other.is_meta
            or other.is_nested
        ):
            raise WeightsError(
                f"The tensor {name!r} in the file is {other.dtype}, {other.layout}, where the "
                f"network has {mine.dtype}, {mine.layout}. Save a plain state dict."
            )


def refuse_unfilled(model: nn.Module, about: str) -> None:
    """Refuse weights that leave layers before the head without values.

    Some published files fill a part of the network only and hold NaN elsewhere. The vectors of
    a network (biases, norms and their statistics) show it at no cost.

    Raises:
        WeightsError: A vector is not finite.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim == 1 and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"The weights {about} do not fill the whole network: {name!r} is not finite. "
                "Embeddings would be NaN; choose other weights."
            )
