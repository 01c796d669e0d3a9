"""Describe the encoder of a file, and name its differences from another encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headstrip.errors import PluginError
from headstrip.system.arguments import check_type

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


def check_is_encoder(encoder: Any) -> None:
    """Refuse anything that is not an encoder, such as the name of a backbone.

    Raises:
        OptionError: It is not an encoder.
    """
    from headstrip.encoder.encoder import Encoder

    name = repr(encoder) if isinstance(encoder, str) and encoder else "'resnet18'"
    check_type("encoder", encoder, Encoder, f"Pass build_encoder({name:.60}).")


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the encoder's manifest, or the few fields that its fingerprint has.

    The manifest needs the plugin of the encoder; the fingerprint does not.

    Raises:
        OptionError: It is not an encoder.
    """
    from headstrip.encoder.manifest import embedding_manifest

    check_is_encoder(encoder)
    try:
        return embedding_manifest(encoder)
    except PluginError:
        fingerprint = encoder.fingerprint
        return {
            "name": fingerprint.name,
            "identity": fingerprint.identity,
            "dtype": fingerprint.dtype,
            "weights": {"tag": fingerprint.weights, "sha256": fingerprint.weights_sha256},
            "preprocessing": encoder.preprocessing and encoder.preprocessing.to_json(),
        }


def encoder_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name each difference between two encoders whose embeddings must not be mixed.

    Args:
        there: The encoder of a file, as ``describe_encoder`` returned it.
        here: Another encoder.
    """
    if there.get("identity") == here.get("identity"):
        return []
    then, now = _facts(there), _facts(here)
    named = [
        f"{key} is {_short(then[key])} in the file and {_short(now[key])} here"
        for key in now
        # Files of earlier versions do not state the options.
        if then[key] != now[key] and not (key == "options" and then[key] is None)
    ]
    return named or ["the values of the parameters differ"]


def _facts(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields in which headstrip compares two encoders."""
    weights = encoder.get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    return {
        # The name in a manifest ends with the tag.
        "name": str(encoder.get("name")).removesuffix(f".{weights.get('tag')}"),
        **{key: encoder.get(key) for key in ("options", "preprocessing", "dtype")},
        # A manifest has no inputs if the user passed no channels and no size.
        "inputs": encoder.get("inputs") or {},
        **{f"weights.{key}": weights.get(key) for key in ("tag", "sha256")},
    }


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return text if len(text) <= 160 else f"{text[:157]}..."
