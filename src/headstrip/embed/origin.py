"""Which encoder made a file of embeddings, and the same one again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headstrip.embed.loading import EmbeddingsFile
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder


def build_encoder_of(
    file: EmbeddingsFile, *, weights: str | os.PathLike[str] | None = None
) -> Encoder:
    """Build the encoder that a file's embeddings are of.

    Args:
        file: The file; its metadata name the encoder.
        weights: Where the weights file is, when it was one of the user's own.

    Raises:
        HeadstripError: The file does not name its encoder, or its weights are not to be had.
        ManifestError: What is built here is another encoder; each difference is named.
    """
    from headstrip.factory import build_encoder
    from headstrip.preprocessing import Preprocessing

    described = _described(file)
    tag, sha256 = described["weights"].get("tag"), described["weights"].get("sha256")
    if sha256 is None and tag is None:
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of {described['name']} with random weights, which "
            "nobody can build again. Embed the images anew, with weights."
        )
    if weights is None and not _is_published(described):
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of {described['name']} with the weights of a file "
            f"of somebody's own, whose sha256 is {sha256}. Say with --weights (weights=) where it "
            "is."
        )
    if "format" in described:
        # The last bits, which other versions may change, are far below what tells images apart.
        encoder = build_encoder(described, weights=weights or "DEFAULT", allow_versions=True)
    else:
        own = tag if weights is None else f"{tag}={os.fspath(weights)}" if tag else weights
        preprocessing = described["preprocessing"]
        encoder = build_encoder(
            described["name"],
            weights=own,
            preprocessing=Preprocessing.from_json(preprocessing) if preprocessing else None,
        )
    check_encoder(file, encoder)
    return encoder


def _is_published(described: Mapping[str, Any]) -> bool:
    """Whether the weights are those that are to be had under their tag."""
    from headstrip.registry import get_registry

    weights = described["weights"]
    spec, _ = get_registry().resolve(described["name"])
    entries = {entry.tag: entry for entry in get_registry().weights(spec)}
    entry, sha256 = entries.get(weights.get("tag")), weights.get("sha256")
    differs = entry is not None and sha256 is not None and not sha256.startswith(entry.sha256)
    return weights.get("tag") is not None and not weights.get("file") and not differs


def check_encoder(file: EmbeddingsFile, encoder: Encoder) -> None:
    """Refuse an encoder whose embeddings cannot be compared with a file's.

    Raises:
        HeadstripError: It is another than that of the file; the difference is named.
    """
    there, fingerprint = _described(file), encoder.fingerprint
    if there["identity"] == fingerprint.identity:
        return
    here = {
        "name": fingerprint.name,
        "weights": {"tag": fingerprint.weights, "sha256": fingerprint.weights_sha256},
        "options": dict(encoder.options),
        "preprocessing": encoder.preprocessing and encoder.preprocessing.to_json(),
        "dtype": fingerprint.dtype,
    }
    named = "; ".join(_differences(there, json.loads(json.dumps(here, default=repr))))
    raise HeadstripError(
        f"{str(file.path)!r} has embeddings of another encoder: "
        f"{named or 'the values of the parameters differ'}. Use the file's own encoder, or embed "
        "the images anew with this one."
    )


def _described(file: EmbeddingsFile) -> dict[str, Any]:
    """Return a file's encoder: a whole manifest, or those fields of one that there are.

    Raises:
        HeadstripError: The file does not name it.
    """
    metadata = file.metadata
    found = metadata.get("manifest") or metadata.get("encoder")
    if not found and isinstance(fingerprint := metadata.get("fingerprint"), Mapping):
        weights = {
            "tag": fingerprint.get("weights"), "sha256": fingerprint.get("weights_sha256")
        }  # fmt: skip
        found = {
            **fingerprint, "weights": weights, "options": metadata.get("options"),
            "preprocessing": metadata.get("preprocessing"),
        }  # fmt: skip
    if (
        not isinstance(found, Mapping)
        or not all(isinstance(found.get(key), str) for key in ("name", "identity", "dtype"))
        or not isinstance(found.get("weights"), Mapping)
        or "preprocessing" not in found
    ):
        raise HeadstripError(
            f"{str(file.path)!r} does not say which encoder its embeddings are of. Name a file as "
            "`headstrip embed` wrote it: other programs leave its metadata out when they write it "
            "anew."
        )
    return dict(found)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = dict(there)
    # A manifest's name has the tag in it.
    found["name"] = found["name"].removesuffix(f".{found['weights'].get('tag')}")
    pairs = [(key, found.get(key), here[key]) for key in ("name", "options", "preprocessing")]
    pairs += [
        (f"weights.{key}", found["weights"].get(key), here["weights"][key])
        for key in ("tag", "sha256")
    ]
    pairs.append(("dtype", found["dtype"], here["dtype"]))
    return [
        f"{key} is {_short(old)} in the file and {_short(new)} here"
        for key, old, new in pairs
        if old != new and not (key == "options" and old is None)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:197]}..."
