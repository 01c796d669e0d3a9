"""Compare state dicts with a network, and load them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.errors import WeightsError
from headstrip.network.checkpoints import is_extra, versions_of

COUNTER = "num_batches_tracked"
"""Files older than torch 0.4.1, and converted ones, lack counters; no output depends on them."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a state dict fits a network.

    Attributes:
        missing: Names that the network has and the file lacks.
        unexpected: Names that the file has and the network lacks.
        reshaped: Names that both have, with another shape.
        shapes: The two shapes of each of these, the file's first.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

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


def resampled(
    content: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the tensors of a file whose number of values a plugin changed.

    Filters for another number of channels are not among them.

    Args:
        content: The tensors of the file by name.
        state: The state dict that the plugin made from them.

    Returns:
        The two shapes of each, the file's first.
    """
    found = {}
    for name, mine in state.items():
        one = content.get(name)
        if isinstance(one, Tensor) and isinstance(mine, Tensor) and one.numel() != mine.numel():
            shapes = tuple(one.shape), tuple(mine.shape)
            kept = [(*shape[:1], *shape[2:]) for shape in shapes]
            if not (is_filter(shapes[1]) and kept[0] == kept[1]):
                found[name] = shapes
    return found


def is_filter(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of filters of a 2D convolution, not, for example, of positions."""
    return len(shape) == 4 and shape[0] > 1


def compare(model: nn.Module, state: Mapping[str, Any]) -> Fit:
    """Compare the names and shapes of a state dict with those of a network."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    reshaped = tuple(
        key
        for key in own
        if key in state and not is_extra(key) and own[key].shape != state[key].shape
    )
    return Fit(
        tuple(missing),
        tuple(key for key in state if key not in own),
        reshaped,
        tuple((tuple(state[key].shape), tuple(own[key].shape)) for key in reshaped),
    )


def copy_into(
    model: nn.Module, state: Mapping[str, Any], source: object, *, headless: bool = False
) -> None:
    """Copy a state dict, which was compared with the network before, into its tensors.

    Args:
        model: The network, with memory.
        state: The adapted state dict.
        source: The content of the file, whose module versions are kept.
        headless: Whether the head's tensors are missing, and stay unchanged.

    Raises:
        WeightsError: A tensor is of another kind than the network's, such as integer or sparse.
    """
    model.load_state_dict(ordered_state(model.state_dict(), state, source), strict=not headless)


def ordered_state(
    own: Mapping[str, Any], state: Mapping[str, Any], source: object
) -> OrderedDict[str, Any]:
    """Return a state dict that loads with ``strict=True``: it has the counters that old files lack.

    It keeps the module versions that ``source`` states, and takes the others from the network: some
    modules (MNASNet's) refuse to load without them.

    Args:
        own: The network's state dict.
        state: The adapted one.
        source: The content of the file.

    Raises:
        WeightsError: A tensor is of another kind than the network's, such as integer or sparse.
    """
    _check_kinds(own, state)
    counters = {key: own[key] for key in own if key.endswith(COUNTER) and key not in state}
    ordered = OrderedDict({**state, **counters})
    merged = {**getattr(own, "_metadata", {}), **versions_of(source)}
    ordered._metadata = merged  # type: ignore[attr-defined]
    return ordered


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return f"{_dtype(tensor)} without values"
    is_dense = tensor.layout is torch.strided and not tensor.is_nested
    layout = "" if is_dense else f" with the layout {tensor.layout}".replace("torch.", "")
    return f"{_dtype(tensor)}{layout}"


def _dtype(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}".removeprefix("torch.")


def _check_kinds(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse tensors that copying would change silently: integers, complex or sparse ones.

    Raises:
        WeightsError: The state dict has such a tensor.
    """
    for name in own.keys() & state.keys():
        if is_extra(name):
            continue
        mine, other = own[name], state[name]
        if (
            mine.is_floating_point() != other.is_floating_point()
            or mine.is_complex() != other.is_complex()
            or other.layout is not torch.strided
            or other.is_meta
            or other.is_nested
        ):
            raise WeightsError(
                f"The tensor {name!r} in the file is {_kind(other)}, where the network has "
                f"{_dtype(mine)}. Save the state dict of the network in its own dtype, before it "
                "is quantized or made sparse."
            )


def refuse_unfilled(model: nn.Module, about: str) -> None:
    """Refuse weights that leave layers before the head without values.

    Some published files fill only a part of the network and hold NaN elsewhere. The vectors of
    a network (biases, norms and their statistics) show this at no cost.

    Raises:
        WeightsError: A vector is not finite.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim == 1 and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"The network has values that are not finite in {name!r} after the weights {about} "
                "were loaded, so embeddings would be NaN. Choose other weights."
            )
