"""A state dict put into a network as it is: nothing is copied that can stay where it lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headstrip.probe import tensors_within
from headstrip.state_dicts import ordered_state

_ALIGNMENT = 64


def assign(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: object,
    *,
    headless: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Load a state dict that was compared with the network before.

    The network's parameters become the tensors themselves, in their dtype, layout and place; those
    that it shares stay shared, and those that it does not share do not begin to.

    Args:
        model: The network; its parameters may be on the meta device.
        state: The adapted state dict.
        source: The object as read, whose versions of modules are carried over.
        headless: Whether the head's tensors are missing, and stay as they are.
        device: Where the tensors go, None for where they are.
        dtype: Dtype of those that are floating-point, None for the network's.

    Raises:
        WeightsError: A tensor is of another kind than the network's.
    """
    own = model.state_dict()
    ordered = ordered_state(own, state, source)
    fit = _Fitter(device, dtype)
    for key in state:
        if key in own:
            ordered[key] = fit(own[key], ordered[key])
    shared = _shared(model)
    model.load_state_dict(ordered, strict=not headless, assign=True)
    for places in shared:
        first = places[0][0]._parameters[places[0][1]]
        for module, name in places[1:]:
            module._parameters[name] = first


class _Fitter:
    """Makes the tensors of a file fit for use where they lie."""

    def __init__(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._used: set[tuple[int, torch.device]] = set()

    def __call__(self, own: Tensor, given: Tensor) -> Tensor:
        """Return ``given`` as it has to be in the place of ``own``."""
        dtype = self._dtype if self._dtype is not None and own.is_floating_point() else own.dtype
        # In two steps where a cast to the network's dtype would have come first.
        made = given.detach().to(own.dtype).to(device=self._device, dtype=dtype)
        if made.stride() != own.stride() and made.shape == own.shape:
            made = torch.empty_strided(
                own.shape, own.stride(), dtype=made.dtype, device=made.device
            ).copy_(made)
        elif made.device.type == "cpu" and made.data_ptr() % _ALIGNMENT:
            made = made.clone(memory_format=torch.preserve_format)
        place = made.data_ptr(), made.device
        if made.numel() and place in self._used:
            # Two names for one tensor in the file: where the network has two, training must not
            # change both. Where it has one, it is made one again afterwards.
            made = made.clone(memory_format=torch.preserve_format)
        self._used.add((made.data_ptr(), made.device))
        return made


def _shared(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """List the places of each parameter that has more than one."""
    places: defaultdict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)].append((module, name))
    return [found for found in places.values() if len(found) > 1]


def is_hollow(model: nn.Module) -> bool:
    """Whether any tensor of a network, in whatever attribute, has no memory."""
    return any(tensor.is_meta for tensor in tensors_within(model))
