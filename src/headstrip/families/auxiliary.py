"""The base class of families with auxiliary heads, which only help training and come off too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.checkpoints import plain_state_dict
from headstrip.network.head import Stripped, detach
from headstrip.spec import WeightsEntry


class AuxiliaryFamily(TorchvisionFamily):
    """A family whose constructors have ``aux_logits`` and ``transform_input``."""

    AUXILIARY: ClassVar[tuple[str, ...]]
    """Names of the auxiliary heads in the network."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "aux_logits": False,
        "init_weights": True,
        "transform_input": False,
    }

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the option by which the network normalises its input as in training."""
        return {"transform_input": True}

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head and the auxiliary heads off a network of this family, in place."""
        stripped = detach(model, self.HEAD)
        had = tuple(name for name in self.AUXILIARY if getattr(model, name, None) is not None)
        for name in had:
            setattr(model, name, None)
        # In train mode torchvision returns a named tuple if this flag is set.
        model.aux_logits = False  # type: ignore[assignment]
        return replace(stripped, paths=(*stripped.paths, *had))

    @hookimpl
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor]:
        """Return the file's state dict without auxiliary heads that the network does not have."""
        unused = tuple(f"{name}." for name in self.AUXILIARY if getattr(model, name, None) is None)
        state = plain_state_dict(loaded)
        return {key: value for key, value in state.items() if not key.startswith(unused)}
