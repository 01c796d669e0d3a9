"""Read the feature maps of timm's networks with timm's own ``forward_intermediates``.

Hooks on modules would not work: in Hiera they see tokens in the order of windows, and the number of
prefix tokens changes between ConViT's levels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import timm
from torch import Tensor, nn

from headstrip import LevelError
from headstrip_timm.adapters import MeanOverPositions

_PREFIX = "return_prefix_tokens"


class IntermediateMaps(nn.Module):
    """A stripped network whose forward pass returns its embedding and its maps.

    With ``norm=False`` the maps are those of ``forward_intermediates``, which are also those of
    timm's ``features_only``. With ``norm=True``, if the head reads tokens or a channels-last map,
    the last map is the one that the head reads, after the last norm.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """Keep the network.

        Raises:
            LevelError: The installed timm has no maps of this network.
        """
        super().__init__()
        self.backbone = backbone
        network = self._network
        if not hasattr(network, "forward_intermediates"):
            raise LevelError(
                f"timm {timm.__version__} has no feature maps of the class "
                f"{type(network).__name__}: it has no forward_intermediates. Install a newer timm, "
                "or use the embedding."
            )
        self._has_tokens = _PREFIX in inspect.signature(network.forward_intermediates).parameters
        self._count = len(getattr(network.feature_info, "info", network.feature_info))

    def forward(
        self, x: Tensor, levels: tuple[int, ...] | None, norm: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Map (N, C, H, W) to the embedding, the maps of some levels, and their prefix tokens."""
        network = self._network
        _check_patches(network)
        indices = list(range(self._count) if levels is None else levels)
        # Networks that have no prefix tokens fail if they are asked for them.
        has_prefix = bool(getattr(network, "num_prefix_tokens", True))
        with_prefix = {_PREFIX: True} if self._has_tokens and has_prefix else {}
        final, found = network.forward_intermediates(x, indices=indices, **with_prefix)
        maps = [one[0] if isinstance(one, (tuple, list)) else one for one in found]
        prefixes = [self._prefix(one, map_) for one, map_ in zip(found, maps, strict=True)]
        if norm and indices[-1] == self._count - 1:
            # CoaT's head reads the tokens of several scales.
            read = final[-1] if isinstance(final, (tuple, list)) else final
            maps[-1], prefixes[-1] = self._normed(read, maps[-1], prefixes[-1])
        return self._embedding(x, final), maps, prefixes

    @property
    def _network(self) -> Any:
        backbone = self.backbone
        return backbone.model if isinstance(backbone, MeanOverPositions) else backbone

    def _embedding(self, x: Tensor, final: Any) -> Tensor:
        try:
            embedding: Tensor = self._network.forward_head(final)
        except NotImplementedError:
            # Encoders of language models have no such step, so they run once more.
            return cast("Tensor", self.backbone(x))
        return (
            self.backbone.pool(embedding)
            if isinstance(self.backbone, MeanOverPositions)
            else embedding
        )

    def _prefix(self, found: Tensor | Sequence[Tensor], own: Tensor) -> Tensor | None:
        if isinstance(found, (tuple, list)):
            return cast("Tensor", found[1])
        return _tokens(own)[:, :0] if self._has_tokens else None

    def _normed(
        self, final: Tensor, own: Tensor, prefix: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last map and its prefix tokens as the head reads them."""
        channels, height, width = own.shape[1:]
        if final.ndim == 3 and final.shape[2] == channels and final.shape[1] >= height * width:
            count = final.shape[1] - height * width
            rows = final[:, count:].reshape(final.shape[0], height, width, channels)
            return rows.permute(0, 3, 1, 2), final[:, :count] if self._has_tokens else None
        is_last = getattr(self._network, "output_fmt", "NCHW") == "NHWC"
        if is_last and tuple(final.shape[1:]) == (height, width, channels):
            return final.permute(0, 3, 1, 2), prefix
        return own, prefix


def _check_patches(network: Any) -> None:
    """Refuse a network that drops patches: timm would form a grid of those that are left.

    Raises:
        LevelError: The network drops patches in its current mode.
    """
    drop = getattr(network, "patch_drop", None)
    rate = getattr(drop, "prob", 0)
    if getattr(drop, "training", False) and rate > 0:
        raise LevelError(
            f"In train mode the network drops patches (patch_drop_rate={rate}), so it has no "
            "feature maps. Call encoder.eval(), or build it with options={'patch_drop_rate': 0.0}."
        )


def _tokens(own: Tensor) -> Tensor:
    return own.flatten(2).transpose(1, 2)
