"""What a file of embeddings says of itself."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from headstrip._version import __version__
from headstrip.embed.plan import Plan, machine
from headstrip.embed.sources import Source
from headstrip.encoder.fingerprint import environment

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


def environment_of(encoder: Encoder) -> dict[str, str]:
    """Return what the last bits of embeddings may differ with."""
    return {
        **environment(), "headstrip": __version__, "processor": machine(),
        "device": str(encoder.place()[0].type),
    }  # fmt: skip


def origin_of(source: Source) -> str:
    """Return what tells one source from another."""
    text = json.dumps(source.describe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def metadata_for(plan: Plan, source: str, listing: str | None) -> dict[str, Any]:
    """Return what a file says of itself."""
    encoder = plan.encoder
    return {
        "headstrip": plan.environment["headstrip"],
        "manifest": encoder,
        "preprocessing": encoder.get("preprocessing"),
        "plan": plan.to_json(),
        "source": source,
        "listing": listing,
    }
