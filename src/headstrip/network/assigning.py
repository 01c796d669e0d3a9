"""Load a state dict into a network without copying tensors that can be used in place."""

from __future__ import annotations

import bisect
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.network.state_dicts import ordered_state
from headstrip.network.width import tensors_within

ALIGNMENT = 64
"""torch's own tensors start at a multiple of this many bytes. Elsewhere kernels give other bits."""

_LOGGER = logging.getLogger("headstrip.factory")


@dataclass(frozen=True, slots=True)
class Fallback:
    """Why a network cannot be built without initialising it."""

    reason: str


def assign(
    model: nn.Module,
    state: Mapping[str, Any],
    source: object,
    *,
    headless: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor] | Fallback:
    """Load a state dict, which was compared with the network before.

    Its tensors replace the network's parameters on the meta device, in the network's dtype and
    layout, on the given device. Parameters that the network shares stay shared, and others do not
    become shared. Tensors that have memory, such as buffers, are filled in place: other objects may
    hold them or views of them.

    Args:
        model: The network; its parameters may be on the meta device.
        state: The adapted state dict.
        source: The content of the file, whose module versions are kept.
        headless: Whether the head's tensors are missing, and stay unchanged.
        device: Device for the tensors, None to leave them where they are.
        dtype: Dtype for the floating-point tensors, None for the network's.

    Returns:
        The tensors that the network received, by name; the reason if its own loading code fails.

    Raises:
        WeightsError: A tensor is of another kind than the network's, such as integer or sparse.
    """
    own = model.state_dict(keep_vars=True)
    ordered = ordered_state(own, state, source)
    fit = _Fitter(device, dtype)
    for key in state:
        if key in own:
            ordered[key] = fit(own[key], ordered[key])
    shared = _shared(model)
    try:
        model.load_state_dict(ordered, strict=not headless, assign=True)
    except Exception as error:
        # This call runs hooks and methods of the network, which may raise anything.
        _LOGGER.debug("It raised:", exc_info=True)
        return Fallback(f"its own loading needs values ({type(error).__name__})")
    for places in shared:
        first = places[0][0]._parameters[places[0][1]]
        for module, name in places[1:]:
            module._parameters[name] = first
    return {key: ordered[key] for key in state if key in own}


class _Fitter:
    """Adapts the tensors of a file to a network, and copies them only if necessary."""

    def __init__(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._used: list[tuple[int, int]] = []

    def __call__(self, own: Tensor, given: Tensor) -> Tensor:
        """Return ``given`` in a form that can replace ``own``."""
        if not own.is_meta:
            with torch.no_grad():
                own.copy_(given)
            return own
        dtype = self._dtype if self._dtype is not None and own.is_floating_point() else own.dtype
        # Two casts, as when torch loads: first to the network's dtype, then to the requested one.
        made = given.detach().to(own.dtype).to(device=self._device, dtype=dtype)
        if made.stride() != own.stride() and made.shape == own.shape:
            made = torch.empty_strided(
                own.shape, own.stride(), dtype=made.dtype, device=made.device
            ).copy_(made)
        elif made.device.type == "cpu" and made.data_ptr() % ALIGNMENT:
            made = made.clone(memory_format=torch.preserve_format)
        if made.device.type == "cpu" and made.numel() and not self._claim(made):
            # The file has two names for one tensor. If the network has two tensors, training must
            # not change both. If the network shares one, `assign` shares it again afterwards.
            made = made.clone(memory_format=torch.preserve_format)
        return made

    def _claim(self, made: Tensor) -> bool:
        """Record the memory of a tensor, and return whether no other tensor overlaps it."""
        start = made.data_ptr()
        last = sum((n - 1) * step for n, step in zip(made.shape, made.stride(), strict=True))
        end = start + (int(last) + 1) * made.element_size()
        at = bisect.bisect(self._used, (start, end))
        before = at and self._used[at - 1][1] > start
        after = at < len(self._used) and self._used[at][0] < end
        if before or after:
            return False
        self._used.insert(at, (start, end))
        return True


def _shared(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """List every (module, name) of each parameter that has more than one."""
    places: defaultdict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)].append((module, name))
    return [found for found in places.values() if len(found) > 1]


def has_meta_tensors(model: nn.Module) -> bool:
    """Whether a network has a tensor on the meta device, or that device, in any attribute."""
    held = (value for module in model.modules() for value in vars(module).values())
    if any(isinstance(value, torch.device) and value.type == "meta" for value in held):
        return True
    return any(tensor.is_meta for tensor in tensors_within(model))
