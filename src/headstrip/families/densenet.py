"""DenseNet: the head is ``classifier``."""

from __future__ import annotations

import re

from torch import Tensor, nn

from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.state_dicts import plain_state_dict
from headstrip.spec import WeightsEntry

# torchvision's files are older than its code: they say norm.1 where the module is norm1.
_OLD_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")


class DenseNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("densenet",)
    MODULE = "torchvision.models.densenet"
    HEAD = "classifier"

    @hookimpl
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor]:
        """Take the file with the old names renamed."""
        state = plain_state_dict(loaded)
        return {_OLD_KEY.sub(r"\1\2", key): value for key, value in state.items()}


plugin = DenseNet()
