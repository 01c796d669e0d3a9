"""Every timm architecture for headstrip, each with the preprocessing and licence of its weights."""

from __future__ import annotations

__version__ = "0.1.0"
