"""Handle other numbers of channels: expand grey to colour, or widen the first convolution.

A convolution is linear, so a channel that keeps its filter gives the same numbers in a wider
convolution. One grey channel is different: the padding of a convolution means another grey in each
normalised channel, so summing the filters gives other numbers. headstrip expands grey instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headstrip.errors import PreprocessingError

Mix = tuple[tuple[float, ...], ...]

_PASS_ON = frozenset({"pad", "to", "contiguous", "type", "float", "half", "bfloat16", "type_as"})
"""Functions that return the image itself: padded, cast, or in another memory layout."""

_NO_VALUES = frozenset(
    {"__get__", "new_zeros", "new_ones", "new_empty", "zeros_like", "empty_like"}
)
"""Functions that use only the shape or the type of the image."""


class ExpandGrey(nn.Module):
    """Turns one grey channel into the normalised channels that a network was trained with."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        grey_mean: float = 0.0,
        grey_std: float = 1.0,
    ) -> None:
        """Keep the statistics.

        Args:
            mean: Mean of each channel that the network was trained with.
            std: Standard deviation of each of these channels.
            grey_mean: Mean with which the grey input was normalised.
            grey_std: Standard deviation with which the grey input was normalised.
        """
        super().__init__()
        numbers = {
            "scale": [grey_std],
            "shift": [grey_mean],
            "mean": list(mean),
            "std": list(std),
        }
        for name, values in numbers.items():
            tensor = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            # Not in state dicts: an encoder's tensors keep their names.
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, H, W) to (N, C, H, W).

        Raises:
            PreprocessingError: The images have another number of channels.
        """
        if x.shape[-3] != 1:
            raise PreprocessingError(
                f"The images have {x.shape[-3]} channels, and the encoder takes one: it was built "
                "with in_chans=1. Pass grey images, or build it without in_chans."
            )
        return (x * self.scale + self.shift - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show how many channels come out."""
        return f"1 -> {len(self.mean)}"


@dataclass(frozen=True, slots=True)
class Widening:
    """How to make the filters of a first convolution for other channels.

    Attributes:
        path: Dotted path of the convolution in the network, head included.
        mix: For each new channel, the share of each old channel's filter in its filter.
        attribute: Name under which modules around the convolution keep its number of channels,
            None if none do.
    """

    path: str
    mix: Mix
    attribute: str | None = None

    @property
    def channels(self) -> int:
        """Number of new channels."""
        return len(self.mix)

    def weight(self, old: Tensor) -> Tensor:
        """Map a convolution's weight (out, C, h, w) to (out, N, h, w)."""
        return torch.cat([_mixed(old, shares) for shares in self.mix], dim=1)

    def adapt(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict with the new filters, unchanged if it has them already."""
        name = f"{self.path}.weight"
        old = state.get(name)
        if not isinstance(old, Tensor) or old.ndim != 4 or old.shape[1] != len(self.mix[0]):
            return state
        return {**state, name: self.weight(old)}

    def is_in(self, state: Mapping[str, Any]) -> bool:
        """Whether the filters in a state dict have the new number of channels already."""
        own = state.get(f"{self.path}.weight")
        return isinstance(own, Tensor) and own.ndim == 4 and own.shape[1] == self.channels

    def widen(self, network: nn.Module) -> None:
        """Give the convolution of a network the new channels, in place."""
        convolution: Any = network.get_submodule(self.path)
        old = convolution.weight
        channels, wanted = convolution.in_channels, self.channels
        with torch.no_grad():
            made = self.weight(old.detach())
        convolution.weight = nn.Parameter(made, requires_grad=old.requires_grad)
        convolution.in_channels = wanted
        if self.attribute is None:
            return
        parts = self.path.split(".")
        for count in range(len(parts)):
            module = network.get_submodule(".".join(parts[:count]))
            if getattr(module, self.attribute, None) == channels:
                setattr(module, self.attribute, wanted)


def _mixed(old: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the filter of one new channel, (out, 1, h, w)."""
    used = [(at, share) for at, share in enumerate(shares) if share]
    if not used:
        return torch.zeros_like(old[:, :1])
    # A filter with the share 1 is not multiplied, so it keeps its bits.
    parts = [
        old[:, at : at + 1] if share == 1 else old[:, at : at + 1] * share for at, share in used
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@dataclass
class Readers:
    """The operations of a network that read the image.

    Attributes:
        convolutions: Dotted paths of the 2D convolutions that take the image.
        others: Names of other operations that take it.
    """

    convolutions: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class ReaderWatch(TorchFunctionMode):
    """A torch mode that records which operations take the input of a network.

    Attributes:
        network: The network.
        readers: The operations that take the input, complete after the network has run.
    """

    def __init__(self, network: nn.Module, input_shape: Sequence[int]) -> None:
        """Create the mode for a network and its input without the batch axis."""
        super().__init__()
        self.readers = Readers()
        self.network, self._shape = network, tuple(input_shape)
        # The tensors stay alive, so that no other tensor gets the id of one of them.
        self._images: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record one call if it takes the image, and run it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        taken = [one for one in (*args, *kwargs.values()) if self._is_image(one)]
        if taken and isinstance(result, Tensor):
            self._note(func, args, kwargs, result)
        return result

    def _is_image(self, value: Any) -> bool:
        if not isinstance(value, Tensor):
            return False
        if not self._images and value.ndim == 4 and tuple(value.shape[1:]) == self._shape:
            # The first tensor of this shape is the input: no operation has used it yet.
            self._images[id(value)] = value
        return id(value) in self._images

    def _note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        name = getattr(func, "__name__", str(func))
        if func is F.conv2d:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            path = self._path_of(weight)
            if path is None:
                self.readers.others.append("a convolution whose filters the network computes")
            else:
                self.readers.convolutions.append(path)
        elif name in _PASS_ON:
            self._images[id(result)] = result
        elif name not in _NO_VALUES:
            self.readers.others.append(name)

    def _path_of(self, weight: Any) -> str | None:
        return next(
            (
                path
                for path, module in self.network.named_modules()
                if isinstance(module, nn.Conv2d) and module._parameters.get("weight") is weight
            ),
            None,
        )
