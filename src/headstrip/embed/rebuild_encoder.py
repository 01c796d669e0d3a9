"""Builds the encoder that computed a file of embeddings, or compares another with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from headstrip.embed.output.loading import EmbeddingsFile, open_embeddings
from headstrip.embed.output.provenance import describe_encoder, encoder_differences
from headstrip.errors import HeadstripError
from headstrip.registry.distributions import to_install, versions_changed

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.spec import BackboneSpec, WeightsEntry

_WEIGHTS = ("tag", "sha256", "file")
_LONGEST_TEXT = 1_000


def build_encoder_of(
    file: EmbeddingsFile,
    *,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
) -> Encoder:
    """Build the encoder that computed the embeddings of a file.

    Args:
        file: The file; its metadata name the encoder.
        weights: The weights file, if the user supplied it and did not name published weights, or
            the folder that ``encoder.save`` wrote.
        weights_key: Which state dict of that file, where ``file`` does not state it.

    Raises:
        HeadstripError: The file does not name its encoder, or its weights are not available.
        ManifestError: The encoder that is built here differs; the message names each difference.
    """
    encoder = build_described(
        described_in(file), repr(str(file.path)), weights=weights, weights_key=weights_key
    )
    check_encoder(file, encoder)
    return encoder


def build_described(
    described: Mapping[str, Any],
    shown: str,
    *,
    content: str = "embeddings of",
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
    device: str | None = None,
) -> Encoder:
    """Build the encoder that a file names.

    Args:
        described: The encoder, as ``describe_encoder`` returned it.
        shown: The file, for messages.
        content: What the file has, for messages.
        weights: The weights file, if the user supplied it and did not name published weights, or
            the folder that ``encoder.save`` wrote.
        weights_key: Which state dict of that file, where ``described`` does not state it.
        device: Device of the encoder.

    Raises:
        HeadstripError: The weights are not available.
        ManifestError: The encoder that is built here differs; the message names each difference.
    """
    from headstrip.encoder.manifest import checked
    from headstrip.factory.build import build_encoder
    from headstrip.factory.from_manifest import preprocessing_in
    from headstrip.registry.distributions import find_described

    if weights is not None and Path(os.path.expanduser(weights)).is_dir():
        return build_encoder(Path(weights), predictors={}, allow_versions=True, device=device)
    if "format" in described:
        described = checked(described, f"The manifest in {shown}")
    tag, sha256 = described["weights"].get("tag"), described["weights"].get("sha256")
    if sha256 is None and tag is None:
        raise HeadstripError(
            f"{shown} has {content} {described['name']} with random weights, so its encoder cannot "
            "be built again. Embed the images again, with weights."
        )
    if weights is None and (problem := _not_published(described, *find_described(described))):
        raise HeadstripError(f"{shown} has {content} {described['name']}. {problem}")
    if "format" in described:
        # Other versions may change the last bits, which matter little when images are compared.
        return build_encoder(
            described,
            weights=weights or "DEFAULT",
            weights_key=weights_key,
            predictors={},
            allow_versions=True,
            device=device,
        )
    own = tag if weights is None else f"{tag}={os.fspath(weights)}" if tag else weights
    return build_encoder(
        described["name"],
        weights=own,
        weights_key=weights_key,
        preprocessing=preprocessing_in(described),
        device=device,
    )


def _not_published(
    described: Mapping[str, Any], spec: BackboneSpec, entry: WeightsEntry | None
) -> str | None:
    """Return why the tag of a file's encoder does not lead to its weights here, or None."""
    from headstrip.registry.distributions import changed_since

    weights = described["weights"]
    problem = changed_since(described, spec, entry)
    # Earlier files do not state whether the user supplied the weights file.
    is_own = weights.get("tag") is None or weights.get("file") or "file" not in weights
    if problem and not is_own:
        return problem.replace("weights=path", "--weights PATH (weights=path)")
    if problem or weights.get("tag") is None or weights.get("file"):
        name = f", {weights['file']}" if weights.get("file") else ""
        return (
            f"The encoder was built from somebody's own weights file{name}, with the sha256 "
            f"{weights.get('sha256')}. Get that file, and pass it with --weights PATH "
            "(weights=path)."
        )
    return None


def to_install_for(path: Path, name: str) -> str:
    """Return what to install for an unknown backbone, if a file has embeddings of it.

    Args:
        path: The file to write, which may not exist yet.
        name: The name of the backbone.

    Returns:
        A sentence after a space; empty if the file does not state it.
    """
    try:
        described = described_in(open_embeddings(path))
    except HeadstripError:
        return ""
    return to_install(described) if f"{described['name']}.".startswith(f"{name}.") else ""


def check_encoder(file: EmbeddingsFile, encoder: Encoder) -> None:
    """Refuse an encoder whose embeddings cannot be compared with a file's.

    Raises:
        HeadstripError: It is not the encoder of the file; the message names the difference.
    """
    there, here = described_in(file), describe_encoder(encoder)
    if differences := "; ".join(encoder_differences(there, here)):
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of another encoder: {differences}."
            f"{versions_changed(there, here)} Use the encoder of the file, or embed the images "
            "again with this one."
        )


def check_width(file: EmbeddingsFile, encoder: Encoder) -> None:
    """Refuse a file whose embeddings have another width than those of its encoder.

    Raises:
        HeadstripError: The widths differ.
    """
    if file.dim != encoder.output_dim:
        raise HeadstripError(
            f"{str(file.path)!r} has embeddings of {file.dim} numbers, and its encoder "
            f"{encoder.spec.qualified_name} gives {encoder.output_dim}. Embed the images again."
        )


def described_in(file: EmbeddingsFile) -> dict[str, Any]:
    """Return the encoder of a file: a whole manifest, or the fields of one in earlier files.

    Raises:
        HeadstripError: The file does not name its encoder.
    """
    metadata = file.metadata
    found = metadata.get("manifest") or metadata.get("encoder")
    if not found and isinstance(fingerprint := metadata.get("fingerprint"), Mapping):
        named = {"tag": fingerprint.get("weights"), "sha256": fingerprint.get("weights_sha256")}
        found = {
            **fingerprint,
            "weights": named,
            "options": metadata.get("options"),
            "preprocessing": metadata.get("preprocessing"),
        }
    if not is_described(found):
        raise HeadstripError(
            f"{str(file.path)!r} does not name the encoder of its embeddings. Pass a file as "
            "`headstrip embed` wrote it: a copy that another program wrote may lack the metadata."
        )
    return dict(found)


def is_described(found: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value describes an encoder, as ``describe_encoder`` does."""
    return (
        isinstance(found, Mapping)
        and all(_is_text(found.get(key)) for key in ("name", "identity", "dtype"))
        and isinstance(weights := found.get("weights"), Mapping)
        and all(weights.get(key) is None or _is_text(weights[key]) for key in _WEIGHTS)
        and isinstance(found.get("preprocessing", ""), (Mapping, type(None)))
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT
