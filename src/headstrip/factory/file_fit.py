"""Decide whether and how headstrip can load a weights file that differs from its network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstrip.errors import WeightsError
from headstrip.factory.misfits import does_not_fit
from headstrip.network.candidates import is_training_only
from headstrip.network.head import Stripped
from headstrip.network.load_hooks import taken
from headstrip.network.state_dicts import Fit, compare, is_under
from headstrip.weights.problems import too_large
from headstrip.weights.reading import WeightsFile

# A checkpoint may hold an optimizer's two moments and an average as well as the weights, and in
# float64 where the network has float32.
_TIMES_THE_NETWORK = 8
_AND_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load a state dict into a network.

    Attributes:
        headless: Whether the state dict has no head, so that the network loses its head.
        classes: The number of classes that the network needs, None if it has that number.
        by_torch: Whether torch has to load it, because the network changes its names.
    """

    headless: bool = False
    classes: int | None = None
    by_torch: bool = False


def plan(
    file: WeightsFile,
    about: str,
    fit: Fit,
    state: Mapping[str, Any],
    stripped: Stripped,
    spare: nn.Module | None,
    input_shape: tuple[int, ...] | None = None,
    place: str = "",
) -> Plan:
    """Decide how to load a state dict that does not fit exactly.

    Args:
        file: The file that contains it.
        about: The backbone, for messages.
        fit: What does not fit.
        state: The adapted state dict.
        stripped: Another instance of the network, without its head.
        spare: A third instance for trials, None if the network has no load hooks.
        input_shape: Input of the network without the batch axis, for messages.
        place: Where the state dict is in the file, for messages; empty for the whole file.

    Raises:
        WeightsError: The state dict cannot be loaded.
    """
    paths = _heads(fit, stripped)
    names, by_torch = state, False
    if spare is not None and fit.outside(paths):
        found = taken(spare, state, file.content)
        # Under the names that the network's own code gives, fewer tensors may differ.
        if found is not None and _closer(found.fit, fit, stripped):
            fit, names, by_torch = found.fit, found.state, True
            paths = _heads(fit, stripped)
    if fit.outside(paths):
        raise does_not_fit(file.path, about, fit, paths, input_shape, place)
    if not fit.names:
        return Plan(by_torch=by_torch)
    headless = not any(is_under(key, paths) for key in names)
    classes = None if headless else _classes(fit, names, file)
    return Plan(headless, classes, by_torch)


def without_training_parts(
    model: nn.Module, state: Mapping[str, Any], stripped: Stripped
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Remove the parts of a state dict that only training needs.

    These are parts such as a decoder or a projection after the backbone, and a head of another kind
    than the network's, such as the two layers of MoCo v2.

    Args:
        model: The network.
        state: The adapted state dict.
        stripped: Another instance of the network, without its head.

    Returns:
        The rest, and the names that were taken out.
    """
    fit = compare(model, state)
    out = {name for name in fit.unexpected if is_training_only(name)}
    in_head = [
        [one for one in names if is_under(one, stripped.paths)]
        for names in (fit.missing, fit.reshaped, set(fit.unexpected) - out)
    ]
    missing, reshaped, unknown = in_head
    widths = {tuple(state[name].shape)[:1] for name in unknown if isinstance(state[name], Tensor)}
    if unknown and (missing or reshaped or len(widths) > 1):
        out |= {name for name in state if is_under(name, stripped.paths)}
    return {name: value for name, value in state.items() if name not in out}, tuple(sorted(out))


def limit_of(model: nn.Module) -> int:
    """Return the largest number of bytes of tensors that a network's weights file may hold."""
    tensors = (*model.parameters(), *model.buffers())
    return _TIMES_THE_NETWORK * _size(tensors) + _AND_BYTES


def refuse_larger(path: Path, state: Mapping[str, Any], limit: int) -> None:
    """Refuse tensors that are small in a file but large in memory, such as expanded ones.

    Raises:
        WeightsError: They have more bytes than ``limit``.
    """
    size = _size(one for one in state.values() if isinstance(one, Tensor))
    if size > limit:
        raise too_large(path, size, limit)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors if not is_lazy(one))


def _heads(fit: Fit, stripped: Stripped) -> tuple[str, ...]:
    """Return the paths of the heads; if a network has no head, unknown tensors may be one."""
    return fit.unexpected if stripped.law == "headless" else stripped.paths


def _closer(one: Fit, other: Fit, stripped: Stripped) -> bool:
    faults = [len(fit.outside(_heads(fit, stripped))) for fit in (one, other)]
    return faults[0] < faults[1]


def _classes(fit: Fit, state: Mapping[str, Any], file: WeightsFile) -> int:
    """Return the number of classes that the head's tensors in a file have."""
    names = fit.reshaped or fit.unexpected
    tensors = [state[name] for name in names if isinstance(state.get(name), Tensor)]
    counts = {int(tensor.shape[0]) for tensor in tensors if tensor.ndim}
    if len(counts) != 1 or fit.missing or (fit.reshaped and fit.unexpected):
        raise WeightsError(
            f"The head in {file.path} has other tensors than the head of this backbone "
            f"({', '.join(fit.names[:3])}). Save the state dict without the tensors of the head."
        )
    if counts == {0}:
        raise WeightsError(
            f"The head in {file.path} has 0 classes. Save the state dict without the tensors of "
            "the head."
        )
    return counts.pop()
