"""Find, download, verify and read weights files.

Only the modules that read tensors import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstrip.weights.locating import locate
    from headstrip.weights.reading import WeightsFile, read_weights

__all__ = ["WeightsFile", "locate", "read_weights"]

_HOME_OF = {"WeightsFile": "reading", "locate": "locating", "read_weights": "reading"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'headstrip.weights' has no attribute {name!r}")
    return getattr(import_module(f"headstrip.weights.{_HOME_OF[name]}"), name)
