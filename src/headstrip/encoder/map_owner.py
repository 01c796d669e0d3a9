"""The methods and attributes of an encoder that feature maps use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headstrip.encoder.map_sizes import Makeup, MapSize
from headstrip.spec import BackboneSpec


class Owner(Protocol):
    """An encoder, as a protocol: the encoder's module imports the modules that use it."""

    backbone: nn.Module
    spec: BackboneSpec
    input_shape: tuple[int, ...]
    expand: nn.Module | None
    _map_sizes: tuple[Makeup, tuple[MapSize, ...]] | None

    @property
    def frozen(self) -> bool:
        """Whether the backbone is frozen."""

    @property
    def device(self) -> torch.device:
        """The device that inputs must be on."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that inputs must have."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context in eval mode and without gradients."""

    def _check_guards(self) -> None: ...

    def _stop(self, part: nn.Module) -> None: ...

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any: ...
