"""A module that returns some maps of an encoder, for detectors, feature pyramids and decoders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from headstrip.encoder.map_choice import as_integers, check_flag
from headstrip.encoder.map_owner import Owner
from headstrip.encoder.maps import choose_levels, map_sizes, maps_module, run
from headstrip.errors import LevelError

if TYPE_CHECKING:
    from typing_extensions import Self


class Pyramid(nn.Module):
    """A module that returns maps of an encoder, the finest first; ``Encoder.pyramid`` makes it.

    It shares the encoder's parameters and buffers, runs in the mode of its backbone, and has no
    head. The encoder's forward does not change. You can put a pyramid into other modules, compile,
    export and pickle it.

    If you later add or remove a hook on the backbone, or set an attribute of its modules, pyramids
    that exist already use the change. The results of torch.compile and torch.export do not: they
    keep the state in which the pyramid was made or last ran. A pyramid does not contain modules
    that you put into the encoder later.

    Attributes:
        channels: Number of channels of each map.
        strides: Pixels between two neighbouring cells of each map.
        out_channels: The channels of the input, then ``channels``, as decoders for segmentation
            expect them.
        names: Whether the forward returns an ordered dict with the keys "0", "1", ... instead of a
            list.

    Example:
        >>> import torch
        >>> from headstrip import build_encoder
        >>> pyramid = build_encoder("resnet18", weights=None).pyramid(strides=(8, 16, 32))
        >>> [tuple(found.shape) for found in pyramid(torch.zeros(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
        >>> pyramid.channels, pyramid.out_channels
        ((128, 256, 512), (3, 128, 256, 512))
    """

    def __init__(
        self,
        encoder: Owner,
        levels: tuple[int, ...],
        *,
        norm: bool,
        names: bool,
        resampled: tuple[int, ...] | None,
    ) -> None:
        """Make the module; users call ``encoder.pyramid`` instead.

        Args:
            encoder: The encoder.
            levels: Numbers of its levels.
            norm: Whether the last level is after the network's last norm.
            names: Whether to return an ordered dict.
            resampled: Strides to which the maps are resampled, None for their own.
        """
        super().__init__()
        sizes = map_sizes(encoder)
        self.channels = tuple(sizes[number].channels for number in levels)
        self.strides = resampled or tuple(sizes[number].stride for number in levels)
        self.out_channels = (encoder.input_shape[0], *self.channels)
        self.names, self._is_resampled = names, resampled is not None
        self.expand = encoder.expand
        self.maps = maps_module(encoder.backbone, encoder.spec, levels, norm)
        self.training = self.maps.training = encoder.backbone.training
        # In a tuple the encoder is not a submodule: a pyramid has no head and no predictors.
        self._owner = (encoder,)

    def forward(self, x: Tensor) -> list[Tensor] | OrderedDict[str, Tensor]:
        """Map a batch (N, C, H, W) to maps (N, C, H, W), the finest first.

        Raises:
            LevelError: The encoder does not take ``x``.
            WeightsError: The parameters are pages of a mapped file, and another program has
                written to that file since.
        """
        if torch.compiler.is_compiling():
            _, found, _ = self.maps(x if self.expand is None else self.expand(x))
        else:
            (encoder,) = self._owner
            encoder._check_guards()
            _, found, _ = run(encoder, self.maps, x)
            if self._is_resampled and min(x.shape[-2:]) < self.strides[-1]:
                raise LevelError(
                    f"Images of {x.shape[-2]} x {x.shape[-1]} have no map of stride "
                    f"{self.strides[-1]}. Pass larger images, or make the pyramid with smaller "
                    "strides."
                )
        if self._is_resampled:
            found = [
                _resampled(one, (x.shape[-2] // stride, x.shape[-1] // stride))
                for one, stride in zip(found, self.strides, strict=True)
            ]
        if self.names:
            named: OrderedDict[str, Tensor] = OrderedDict()
            for number, one in enumerate(found):
                named[str(number)] = one
            return named
        maps: list[Tensor] = found
        return maps

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode of the pyramid and of the encoder's backbone.

        The parts that ``Encoder.freeze`` stopped stay in eval mode.

        Returns:
            The pyramid itself.
        """
        super().train(mode)
        (encoder,) = self._owner
        encoder.backbone.train(mode)
        for part in (encoder.backbone, self.maps):
            encoder._stop(part)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Turn gradients on or off; for a frozen backbone they stay off.

        Returns:
            The pyramid itself.
        """
        (encoder,) = self._owner
        super().requires_grad_(requires_grad and not encoder.frozen)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the encoder, whose tensors these are."""
        self._owner[0]._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """Return what ``repr`` shows of the pyramid."""
        return f"channels={self.channels}, strides={self.strides}"


def make_pyramid(
    encoder: Owner,
    *,
    levels: Sequence[int] | None,
    strides: Sequence[int] | None,
    norm: bool,
    names: bool,
    resample: bool,
) -> Pyramid:
    """Make the pyramid that a caller chose; see ``Encoder.pyramid``.

    Raises:
        LevelError: The encoder has no such maps.
    """
    check_flag("names", names)
    check_flag("resample", resample)
    if not resample:
        chosen, wanted = choose_levels(encoder, levels, strides), None
    else:
        wanted = _checked_strides(encoder, levels, strides)
        chosen = _spread(len(map_sizes(encoder)), len(wanted))
    return Pyramid(encoder, chosen, norm=norm, names=names, resampled=wanted)


def _checked_strides(
    encoder: Owner, levels: Sequence[int] | None, strides: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the strides to resample to, or refuse strides and networks that do not allow it."""
    sizes = map_sizes(encoder)
    if levels is not None or strides is None:
        raise LevelError(
            f"resample=True needs strides, and levels={levels!r:.100} and strides={strides!r:.100} "
            "were passed. Pass for example strides=(4, 8, 16, 32) alone."
        )
    own = sorted({size.stride for size in sizes})
    if len(own) > 1:
        raise LevelError(
            f"{encoder.spec.qualified_name} has maps of the strides {', '.join(map(str, own))}, "
            "and resample=True is for networks whose maps have one stride. Choose among its "
            "strides."
        )
    wanted = as_integers(strides)
    if wanted is None or wanted[0] < 1 or wanted != sorted(set(wanted)):
        raise LevelError(
            f"strides={strides!r:.100} must be rising integers above zero. Pass for example "
            "strides=(4, 8, 16, 32)."
        )
    if len(wanted) > len(sizes):
        raise LevelError(
            f"{encoder.spec.qualified_name} has {len(sizes)} maps, and {len(wanted)} strides were "
            "passed. Pass fewer."
        )
    return tuple(wanted)


def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """Return levels at equal distances, the last one included."""
    return tuple((number + 1) * count // wanted - 1 for number in range(wanted))


def _resampled(found: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(found, size=size, mode="bilinear", align_corners=False)
