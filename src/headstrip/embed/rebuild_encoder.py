"""Which encoder made a file of embeddings, and the same one again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.output.loading import EmbeddingsFile, open_embeddings
from headstrip.embed.plan import encoder_in_plan
from headstrip.errors import HeadstripError
from headstrip.registry.distributions import to_install, versions_changed

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.spec import BackboneSpec, WeightsEntry

_WEIGHTS = ("tag", "sha256", "file")
_MOST_TEXT = 1_000


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
    from headstrip.encoder.manifest import checked
    from headstrip.factory.build import build_encoder
    from headstrip.factory.from_manifest import preprocessing_in
    from headstrip.registry.distributions import find_described

    described, about = _described(file), f"The manifest in {str(file.path)!r}"
    if "format" in described:
        described = checked(described, about)
    tag, sha256 = described["weights"].get("tag"), described["weights"].get("sha256")
    if sha256 is None and tag is None:
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of {described['name']} with random weights, which "
            "nobody can build again. Embed the images anew, with weights."
        )
    if weights is None and (problem := _not_published(described, *find_described(described))):
        raise HeadstripError(f"{str(file.path)!r} has embeddings of {described['name']}. {problem}")
    if "format" in described:
        # The last bits, which other versions may change, are far below what tells images apart.
        encoder = build_encoder(
            described, weights=weights or "DEFAULT", predictors={}, allow_versions=True
        )
    else:
        own = tag if weights is None else f"{tag}={os.fspath(weights)}" if tag else weights
        encoder = build_encoder(
            described["name"], weights=own, preprocessing=preprocessing_in(described)
        )
    check_encoder(file, encoder)
    return encoder


def _not_published(
    described: Mapping[str, Any], spec: BackboneSpec, entry: WeightsEntry | None
) -> str | None:
    """Say why the tag of a file's encoder does not give its weights here, None where it does."""
    from headstrip.registry.distributions import changed_since

    weights = described["weights"]
    problem = changed_since(described, spec, entry)
    # Earlier files do not say whether the weights were a file of the user's own.
    is_own = weights.get("tag") is None or weights.get("file") or "file" not in weights
    if problem and not is_own:
        return problem.replace("weights=path", "--weights PATH (weights=path)")
    if problem or weights.get("tag") is None or weights.get("file"):
        name = f" ({weights['file']})" if weights.get("file") else ""
        return (
            f"Its weights were read from a file of the user's own{name}, whose sha256 is "
            f"{weights.get('sha256')}. Say with --weights (weights=) where it is."
        )
    return None


def to_install_for(path: Path, name: str) -> str:
    """Say what to install for a backbone that is unknown here, where a file has embeddings of it.

    Args:
        path: The file that is to be written; often there is none yet.
        name: What was asked for.

    Returns:
        A sentence with a space before it; empty where the file does not tell.
    """
    try:
        described = _described(open_embeddings(path))
    except HeadstripError:
        return ""
    return to_install(described) if f"{described['name']}.".startswith(f"{name}.") else ""


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
    versions = versions_changed(there, encoder_in_plan(encoder))
    raise HeadstripError(
        f"{str(file.path)!r} has embeddings of another encoder: "
        f"{named or 'the values of the parameters differ'}.{versions} Use the file's own encoder, "
        "or embed the images anew with this one."
    )


def check_width(file: EmbeddingsFile, encoder: Encoder) -> None:
    """Refuse a file whose embeddings are not as wide as those of its encoder.

    Raises:
        HeadstripError: They are not.
    """
    if file.dim != encoder.output_dim:
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of {file.dim} numbers, and its encoder "
            f"{encoder.spec.qualified_name} gives {encoder.output_dim}. Embed the images again."
        )


def _described(file: EmbeddingsFile) -> dict[str, Any]:
    """Return a file's encoder: a whole manifest, or those fields of one that there are.

    Raises:
        HeadstripError: The file does not name it.
    """
    metadata = file.metadata
    found = metadata.get("manifest") or metadata.get("encoder")
    if not found and isinstance(fingerprint := metadata.get("fingerprint"), Mapping):
        named = {"tag": fingerprint.get("weights"), "sha256": fingerprint.get("weights_sha256")}
        found = {
            **fingerprint, "weights": named, "options": metadata.get("options"),
            "preprocessing": metadata.get("preprocessing"),
        }  # fmt: skip
    if (
        not isinstance(found, Mapping)
        or not all(_is_text(found.get(key)) for key in ("name", "identity", "dtype"))
        or not isinstance(weights := found.get("weights"), Mapping)
        or not all(weights.get(key) is None or _is_text(weights[key]) for key in _WEIGHTS)
        or not isinstance(found.get("preprocessing", ""), (Mapping, type(None)))
    ):
        raise HeadstripError(
            f"{str(file.path)!r} does not say which encoder its embeddings are of. Name a file as "
            "`headstrip embed` wrote it: other programs leave its metadata out when they write it "
            "anew."
        )
    return dict(found)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_TEXT


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
