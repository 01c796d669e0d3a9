"""All timm architectures for headstrip, with the preprocessing and licence of their weights."""

from __future__ import annotations

__version__ = "0.1.0"
