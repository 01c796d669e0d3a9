"""From a manifest to what has to be built, and whether what was built is the same encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headstrip.encoder.bounds import (
    refuse_large_network,
    refuse_large_options,
    refuse_large_predictors,
    refuse_large_preprocessing,
)
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.manifest import (
    as_json,
    checked,
    has_trained_predictors,
    manifest_of,
    predicted,
    refuse_differences,
)
from headstrip.encoder.predictors import Predictors
from headstrip.errors import ManifestError, PreprocessingError, one_line
from headstrip.factory.construction import RESERVED_OPTIONS
from headstrip.factory.selection import WeightsArgument
from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.distributions import changed_since, find_described
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.system import bounded_json


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a manifest from a JSON file.

    Raises:
        ManifestError: The file cannot be read, or holds none.
    """
    try:
        content = bounded_json.read(Path(path).expanduser(), "it")
    except (OSError, ValueError) as error:
        reason = one_line(error)[:300].removesuffix(".")
        raise ManifestError(
            f"{os.fspath(path)!r} cannot be read as a manifest: {reason}. Name a file that "
            "json.dumps(encoder.manifest()) was written to."
        ) from error
    return checked(content, f"{os.fspath(path)!r}")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What ``build_encoder`` builds.

    Attributes:
        name: Of the backbone, as ``build_encoder`` takes it.
        weights: Which weights, as ``build_encoder`` takes them.
        predictors: Attributes and their numbers of classes.
        preprocessing: Instead of that of the weights, or the tag of the weights that have it.
        options: Constructor arguments of the network.
        dtype: Floating-point type of the parameters, None for the network's.
        manifest: What the encoder is compared with after it is built, None without one.
        replaces_predictors: Whether ``predictors`` take the place of the manifest's.
    """

    name: str
    weights: WeightsArgument = "DEFAULT"
    predictors: Mapping[str, int] | None = None
    preprocessing: Preprocessing | str | None = None
    options: Mapping[str, Any] | None = None
    dtype: torch.dtype | None = None
    manifest: Mapping[str, Any] | None = None
    replaces_predictors: bool = False


def request_from_manifest(
    manifest: Mapping[str, Any] | str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    predictors: Mapping[str, int] | None = None,
    **given: Any,
) -> BuildRequest:
    """Return what has to be built for a manifest.

    Args:
        manifest: What ``encoder.manifest()`` gave, or the path of a JSON file with it.
        weights: Path of the weights file, when it is one of the user's own.
        predictors: Attributes and classes of new predictors instead of the manifest's; an empty
            mapping for none.
        given: What else the caller passed to ``build_encoder`` and a manifest states itself:
            ``options``, ``preprocessing`` and ``dtype``, which must be None.

    Raises:
        ManifestError: It is no manifest, its encoder cannot be built again, its predictors were
            trained, or it describes what is far larger than such an encoder.
        ValueError: The caller passed what the manifest states.
        UnknownBackboneError: No installed source has the name.
        PluginError: The plugin that owns the name cannot be used.
    """
    if isinstance(manifest, (str, os.PathLike)):
        wanted = read_manifest(manifest)
    else:
        wanted = checked(manifest, "What was passed as a manifest")
    if twice := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"The manifest of {wanted['name']} states {twice[0]} already, and "
            f"{twice[0]}={given[twice[0]]!r} was passed. Leave it out, or build by name."
        )
    _refuse_what_no_file_has(wanted)
    if predictors is None:
        _refuse_trained_predictors(wanted)
    preprocessing = preprocessing_in(wanted)
    spec, entry = find_described(wanted)
    options = _changed_options(spec, entry, wanted["options"])
    if options:
        _check_options(spec, entry, options, f"The manifest of {wanted['name']}")
    return BuildRequest(
        spec.qualified_name,
        _weights_argument(wanted, spec, entry, weights),
        predicted(wanted) if predictors is None else dict(predictors),
        preprocessing,
        options,
        _dtype(wanted),
        wanted,
        predictors is not None,
    )


def compare_with_manifest(
    encoder: Encoder, request: BuildRequest, device: torch.device | None, allow_versions: bool
) -> Encoder:
    """Return the encoder as its manifest describes it, predictors included.

    Args:
        encoder: What was built for the request, without predictors.
        request: What ``request_from_manifest`` gave.
        device: Where the predictors go, None for the CPU.
        allow_versions: Whether library versions may differ from those in the manifest.

    Raises:
        ManifestError: What was built differs; each difference is named.
    """
    wanted, classes = request.manifest or {}, request.predictors or {}
    if wanted["preprocessing"] is None:
        encoder.preprocessing = None
    if wanted.get("frozen"):
        encoder.freeze()
    refuse_differences(wanted, manifest_of(encoder), allow_versions)
    if classes:
        if not request.replaces_predictors:
            about = f"The manifest of {wanted['name']}"
            refuse_large_predictors(classes, encoder.output_dim, about)
        made = Predictors(encoder.output_dim, classes)
        encoder.predictors = made.to(device=device, dtype=request.dtype)
    return encoder


def _as_option(value: Any) -> Any:
    """Make tuples of lists, at any depth: so catalogs hold options, and constructors take them."""
    if isinstance(value, dict):
        return {key: _as_option(item) for key, item in value.items()}
    return tuple(map(_as_option, value)) if isinstance(value, list) else value


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


def _refuse_trained_predictors(wanted: Mapping[str, Any]) -> None:
    if has_trained_predictors(wanted):
        classes = predicted(wanted)
        first = dict(list(classes.items())[:3])
        raise ManifestError(
            f"The manifest of {wanted['name']} is of an encoder with {len(classes)} predictors "
            f"that were, or may have been, trained, and has no values of theirs. Pass "
            f"predictors={first!r:.200}{', with all of them,' if first != classes else ''} for new "
            "ones and load what torch.save(encoder.predictors.state_dict(), path) wrote with "
            "encoder.predictors.load_state_dict, or pass predictors={} to build none."
        )


def _check_options(
    spec: BackboneSpec, entry: WeightsEntry | None, options: Mapping[str, Any], about: str
) -> None:
    """Refuse options of a manifest that are headstrip's own, or make what is far too large."""
    if reserved := sorted({*options} & {*RESERVED_OPTIONS}):
        raise ManifestError(
            f"{about} has the option {reserved[0]}={options[reserved[0]]!r:.100}, which headstrip "
            "sets itself. Write encoder.manifest() again."
        )
    refuse_large_options(options, about)
    own = {**dict(spec.options), **dict(entry.options if entry else ())}
    refuse_large_network(get_registry().owner(spec), spec, {**own, **options}, about)


def _weights_argument(
    wanted: Mapping[str, Any],
    spec: BackboneSpec,
    entry: WeightsEntry | None,
    given: str | os.PathLike[str] | None,
) -> str | os.PathLike[str]:
    tag, file, sha256 = (wanted["weights"][key] for key in ("tag", "file", "sha256"))
    if given is not None:
        # A file that was named without a tag need not have the options of its weights.
        plain = entry is None or not dict(entry.options).keys() <= wanted["options"].keys()
        return Path(given) if plain else f"{tag}={os.fspath(given)}"
    if tag is None or file is not None:
        raise ManifestError(
            f"The weights of {wanted['name']} were read from a file of the user's own"
            f"{f' ({file})' if file else ''}, with the sha256 {sha256}. Pass weights=path, where "
            "it is here."
        )
    if problem := changed_since(wanted, spec, entry):
        raise ManifestError(problem)
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


def preprocessing_in(wanted: Mapping[str, Any]) -> Preprocessing | None:
    """Return the preprocessing that a manifest describes.

    Raises:
        ManifestError: It is damaged, or its images would not fit in memory.
    """
    described, about = wanted["preprocessing"], f"The manifest of {wanted['name']}"
    if described is None:
        return None
    try:
        preprocessing = Preprocessing.from_json(described)
    # A number of a thousand digits is more than a float.
    except (PreprocessingError, OverflowError) as error:
        raise ManifestError(
            f"{about} is damaged: {one_line(error)[:300]} Write encoder.manifest() again."
        ) from error
    refuse_large_preprocessing(described, about)
    return preprocessing


def _dtype(wanted: Mapping[str, Any]) -> torch.dtype | None:
    dtype: torch.dtype = getattr(torch, wanted["dtype"])
    # Some networks have parameters of more than one type: they keep them where nothing is asked.
    return None if dtype == torch.get_default_dtype() else dtype
