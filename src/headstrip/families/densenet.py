"""DenseNet: the head is ``classifier``."""

from __future__ import annotations

import re

from headstrip.families.family import TorchvisionFamily

# torchvision's files are older than its code: they have norm.1 where the module is norm1.
_OLD_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")


class DenseNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("densenet",)
    MODULE = "torchvision.models.densenet"
    HEAD = "classifier"

    def renamed(self, key: str) -> str:
        """Return the key of the network for a key of a weights file."""
        return _OLD_KEY.sub(r"\1\2", key)


plugin = DenseNet()
