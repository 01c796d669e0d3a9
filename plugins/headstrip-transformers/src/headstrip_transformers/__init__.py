"""Vision towers of Hugging Face transformers for headstrip, pooled like their classifiers."""

from __future__ import annotations

__version__ = "0.1.0"
