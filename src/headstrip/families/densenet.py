"""DenseNet: the head is ``classifier``."""

from __future__ import annotations

import re

from headstrip.families.family import TorchvisionFamily
from headstrip.network.levels import Level

# torchvision's files are older than its code: they have norm.1 where the module is norm1.
_OLD_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")


class DenseNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("densenet",)
    MODULE = "torchvision.models.densenet"
    HEAD = "classifier"
    LEVELS = (
        ">features.pool0",
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        # The network's last ReLU is not a module.
        Level("features.norm5", is_finished_in_place=True),
    )

    def renamed(self, key: str) -> str:
        """Return the key of the network for a key of a weights file."""
        return _OLD_KEY.sub(r"\1\2", key)


plugin = DenseNet()
