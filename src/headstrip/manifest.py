"""What an encoder is made of, as JSON, and the same encoder built from it again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstrip import __version__
from headstrip.encoder import Encoder
from headstrip.errors import ManifestError, PreprocessingError, one_line
from headstrip.factory import build_encoder
from headstrip.manifest_form import FORMAT, as_json, checked, is_json, refuse_differences
from headstrip.preprocessing import Preprocessing
from headstrip.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry

_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTLED = ("options", "preprocessing", "predictors", "dtype")


def manifest_of(encoder: Encoder) -> dict[str, Any]:
    """Write down what an encoder is made of, as plain JSON values.

    Args:
        encoder: What ``build_encoder`` gave.

    Returns:
        ``format``; ``name`` with the tag of its weights; ``weights`` (``tag``, ``sha256`` of the
        file, ``file``: the name of a file of the user's own); ``options``, and under ``not_json``
        what those are that JSON cannot hold; ``preprocessing``; ``dtype``; ``input_shape``;
        ``law``; ``output_dim``; ``predictors``: names and classes; ``identity`` of the fingerprint,
        computed now; ``versions`` of what computes.

    Raises:
        ManifestError: A predictor has no number of classes.
        PluginError: The plugin that builds such encoders is not in this process.
    """
    fingerprint, spec, weights = encoder.fingerprint, encoder.spec, encoder.weights
    tag = weights.tag if weights else None
    plain = {key: value for key, value in encoder.options.items() if is_json(value)}
    others = {key: value for key, value in encoder.options.items() if key not in plain}
    predictors = encoder.predictors.named() if encoder.predictors else {}
    return {
        "format": FORMAT,
        "name": _tagged(spec, tag),
        "weights": {
            "tag": tag,
            "sha256": encoder.weights_sha256,
            "file": encoder.weights_file,
        },
        "options": as_json(plain),
        "not_json": {key: _ADDRESS.sub("", repr(value)) for key, value in others.items()},
        "preprocessing": encoder.preprocessing.to_json() if encoder.preprocessing else None,
        "dtype": fingerprint.dtype,
        "input_shape": list(encoder.input_shape),
        "law": encoder.law,
        "output_dim": encoder.output_dim,
        "predictors": [[name, _classes(name, module)] for name, module in predictors.items()],
        "identity": fingerprint.identity,
        "versions": {**fingerprint.environment, **_distributions(spec)},
    }


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a manifest from a JSON file.

    Raises:
        ManifestError: The file cannot be read, or holds none.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{os.fspath(path)!r} cannot be read as a manifest ({one_line(error)[:200]}). "
            "Name a file that json.dumps(encoder.manifest()) was written to."
        ) from error
    return checked(content, f"{os.fspath(path)!r}")


def build_from_manifest(
    manifest: Mapping[str, Any] | str | os.PathLike[str],
    *,
    allow_versions: bool = False,
    weights: str | os.PathLike[str] | None = None,
    **place: Any,
) -> Encoder:
    """Build the encoder that a manifest describes, bit for bit, or refuse.

    Predictors have their names and classes, and are initialised anew: what they learnt is in no
    manifest.

    Args:
        manifest: What ``manifest_of`` gave, or the path of a JSON file with it.
        allow_versions: Whether other libraries than the manifest names may compute. The last bits
            of embeddings may differ then.
        weights: Where the weights file is, when it is one of the user's own.
        place: What ``build_encoder`` takes besides and the manifest does not settle, such as
            ``device``.

    Raises:
        ManifestError: It is no manifest, its encoder cannot be built again, or what is built here
            differs; each difference is named.
        ValueError: ``place`` has what the manifest settles.
        WeightsError: The weights are missing or damaged.
        UnknownBackboneError: The name is nobody's here.
        PluginError: The plugin that owns the name cannot be used.
    """
    if isinstance(manifest, (str, os.PathLike)):
        wanted = read_manifest(manifest)
    else:
        wanted = checked(manifest, "What was passed as a manifest")
    if settled := [name for name in _SETTLED if place.get(name) is not None]:
        raise ValueError(
            f"The manifest of {wanted['name']} settles {settled[0]}={place[settled[0]]!r} already. "
            "Leave it out, or build by name."
        )
    _refuse_what_no_file_has(wanted)
    spec, _ = get_registry().resolve(wanted["name"])
    entries = {entry.tag: entry for entry in get_registry().weights(spec)}
    entry = entries.get(wanted["weights"]["tag"])
    encoder = build_encoder(
        spec.qualified_name,
        **{
            **place,
            "weights": _weights_argument(wanted, entry, weights),
            "options": _changed_options(spec, entry, wanted["options"]),
            "preprocessing": _preprocessing(wanted),
            "predictors": dict(wanted["predictors"]) or None,
            "dtype": _dtype(wanted),
        },
    )
    if wanted["preprocessing"] is None:
        encoder.preprocessing = None
    refuse_differences(wanted, manifest_of(encoder), allow_versions)
    return encoder


def _tagged(spec: BackboneSpec, tag: str | None) -> str:
    # A hub id is not split at dots: it cannot carry a tag.
    plain = tag is None or "/" in spec.name
    return spec.qualified_name if plain else f"{spec.qualified_name}.{tag}"


def _as_option(value: Any) -> Any:
    """Make tuples of lists, at any depth: so catalogs hold options, and constructors take them."""
    if isinstance(value, dict):
        return {key: _as_option(item) for key, item in value.items()}
    return tuple(map(_as_option, value)) if isinstance(value, list) else value


def _classes(name: str, module: nn.Module) -> int:
    if not isinstance(module, nn.Linear):
        raise ManifestError(
            f"The predictor {name!r} is a {type(module).__name__}, and no manifest describes one. "
            "Build the encoder without predictors, and keep yours beside it."
        )
    return module.out_features


def _distributions(spec: BackboneSpec) -> dict[str, str]:
    """Return the versions of headstrip, of the plugin's distribution, and of what that requires."""
    found = {"headstrip": __version__}
    distribution, _, version = get_registry().owner(spec).origin.partition(" ")
    if not version:
        return found
    found[distribution] = version
    for requirement in metadata.requires(distribution) or ():
        name = _REQUIREMENT.match(requirement)
        if name and "extra ==" not in requirement and name[0] not in found:
            try:
                found[name[0]] = metadata.version(name[0])
            except metadata.PackageNotFoundError:
                # Its marker is for another platform.
                continue
    return found


def _refuse_what_no_file_has(wanted: Mapping[str, Any]) -> None:
    """Refuse random weights, and options that only the process had that built with them."""
    if wanted["weights"]["tag"] is None and wanted["weights"]["sha256"] is None:
        raise ManifestError(
            f"The manifest is of {wanted['name']} with random weights, identity "
            f"{wanted['identity']}, which nobody can build again. Save them with "
            "torch.save(encoder.backbone.state_dict(), path), build with weights=path, and take "
            "that encoder's manifest."
        )
    if wanted["not_json"]:
        shown = ", ".join(f"{key}={value}" for key, value in wanted["not_json"].items())
        raise ManifestError(
            f"The manifest is of {wanted['name']} with options that JSON does not hold ({shown}), "
            f"identity {wanted['identity']}. Save its weights with "
            "torch.save(encoder.backbone.state_dict(), path), and build by name with weights=path "
            "and these options."
        )


def _weights_argument(
    wanted: Mapping[str, Any], entry: WeightsEntry | None, given: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
    tag, file, sha256 = (wanted["weights"][key] for key in ("tag", "file", "sha256"))
    if given is not None:
        # A file that was named without a tag need not have the options of its weights.
        plain = entry is None or not dict(entry.options).keys() <= wanted["options"].keys()
        return Path(given) if plain else f"{tag}={os.fspath(given)}"
    is_published = file is None and not (sha256 and entry and not sha256.startswith(entry.sha256))
    if tag is None or not is_published:
        raise ManifestError(
            f"The weights of {wanted['name']} are no published ones but a file of somebody's own"
            f"{f' ({file})' if file else ''}, with the sha256 {sha256}. Pass weights=path, where "
            "it is here."
        )
    return str(tag)


def _changed_options(
    spec: BackboneSpec, entry: WeightsEntry | None, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the options that the backbone and its weights do not have by themselves."""
    own = {**dict(spec.options), **dict(entry.options if entry else ())}
    changed = {
        key: _as_option(value)
        for key, value in options.items()
        if key not in own or as_json(own[key]) != value
    }
    return changed or None


def _preprocessing(wanted: Mapping[str, Any]) -> Preprocessing | None:
    if wanted["preprocessing"] is None:
        return None
    try:
        return Preprocessing.from_json(wanted["preprocessing"])
    # A number of a thousand digits is more than a float.
    except (PreprocessingError, OverflowError) as error:
        raise ManifestError(
            f"The manifest of {wanted['name']} is damaged: {one_line(error)[:300]} Take "
            "encoder.manifest() anew."
        ) from error


def _dtype(wanted: Mapping[str, Any]) -> torch.dtype | None:
    dtype: torch.dtype = getattr(torch, wanted["dtype"])
    # Some networks have parameters of more than one type: they keep them where nothing is asked.
    return None if dtype == torch.get_default_dtype() else dtype
