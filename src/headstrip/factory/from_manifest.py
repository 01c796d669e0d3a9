"""Turn a manifest into a build request, and compare the built encoder with the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headstrip.encoder.attribute import AttributesArgument
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
    predictor_classes,
    predictor_counts,
    refuse_differences,
)
from headstrip.encoder.predictors import Predictors
from headstrip.errors import ManifestError, OptionError, PreprocessingError, one_line
from headstrip.factory.construction import RESERVED_OPTIONS
from headstrip.factory.inputs import InputRequest, parse_input
from headstrip.factory.own_labels import refuse_other_count
from headstrip.factory.selection import WeightsArgument
from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.distributions import changed_since, find_described
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry, merged_options
from headstrip.system import bounded_json

PreprocessingArgument = Preprocessing | str | Callable[[Preprocessing], Preprocessing]

_NO_INPUTS = InputRequest()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a manifest from a JSON file.

    Raises:
        ManifestError: The file cannot be read, or does not contain a manifest.
    """
    try:
        content = bounded_json.read(Path(os.path.expanduser(path)), "it")
    except (OSError, ValueError) as error:
        reason = one_line(error, 300)
        raise ManifestError(
            f"{os.fspath(path)!r} cannot be read as a manifest: {reason}. Pass a file that "
            "contains json.dumps(encoder.manifest())."
        ) from error
    return checked(content, f"{os.fspath(path)!r}")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The arguments of ``build_encoder``, passed by the user or stated by a manifest.

    Attributes:
        name: Name of the backbone, as for ``build_encoder``.
        weights: The weights, as for ``build_encoder``.
        predictors: The attributes, as for ``build_encoder``.
        preprocessing: The preprocessing, as for ``build_encoder``.
        options: Constructor arguments of the network.
        dtype: Floating-point dtype of the parameters, None for the network's.
        inputs: The channels and the image size.
        manifest: The manifest to compare the built encoder with, None without one.
        replaces_predictors: Whether ``predictors`` replace those of the manifest.
        weights_key: Which state dict of the weights file, as for ``build_encoder``.
    """

    name: str
    weights: WeightsArgument = "DEFAULT"
    predictors: AttributesArgument | None = None
    preprocessing: PreprocessingArgument | None = None
    options: Mapping[str, Any] | None = None
    dtype: torch.dtype | None = None
    inputs: InputRequest = _NO_INPUTS
    manifest: Mapping[str, Any] | None = None
    replaces_predictors: bool = False
    weights_key: str | None = None


def request_from_manifest(
    manifest: Mapping[str, Any] | str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    predictors: AttributesArgument | None = None,
    preprocessing: PreprocessingArgument | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    inputs: InputRequest = _NO_INPUTS,
    weights_key: str | None = None,
) -> BuildRequest:
    """Return the build request for a manifest.

    Args:
        manifest: The result of ``encoder.manifest()``, or the path of a JSON file with it.
        weights: Path of the weights file, if the encoder was built from a user's file.
        predictors: Attributes and classes of new predictors, which replace those of the manifest;
            an empty mapping for none.
        preprocessing: Must be None: a manifest states it, as it does ``options`` and ``dtype``.
        options: Must be None.
        dtype: Must be None.
        inputs: Must be empty.
        weights_key: Which state dict of the weights file, if the manifest does not state it.

    Raises:
        ManifestError: It is not a manifest, its encoder cannot be built again, its predictors were
            trained, or it describes something far larger than such an encoder.
        ValueError: The caller passed an argument that the manifest states.
        UnknownBackboneError: No installed source has the name.
        PluginError: The plugin that owns the name cannot be used.
    """
    if isinstance(manifest, (str, os.PathLike)):
        wanted = read_manifest(manifest)
    else:
        wanted = checked(manifest, "The manifest")
    key = wanted["weights"].get("key")
    stated = {"preprocessing": preprocessing, "options": options, "dtype": dtype}
    stated["weights_key"] = weights_key if key is not None else None
    for name, value in stated.items():
        if value is not None:
            raise ValueError(
                f"The manifest of {wanted['name']} states {name} already, and {name}={value!r} was "
                "passed. Leave it out, or build by name."
            )
    if given := inputs.to_json():
        raise ValueError(
            f"The manifest of {wanted['name']} states the input already, and "
            f"{', '.join(f'{key}={value!r}' for key, value in given.items())} was passed. Leave it "
            "out, or build by name."
        )
    _refuse_unrepeatable(wanted)
    if predictors is None:
        _refuse_trained_predictors(wanted)
    steps = preprocessing_in(wanted)
    spec, entry = find_described(wanted)
    inputs = inputs_in(wanted)
    changed = changed_options(spec, entry, wanted["options"])
    if changed:
        _check_options(spec, entry, changed, f"The manifest of {wanted['name']}")
    if changed and inputs.img_size is not None:
        # The build sets the option for the size again.
        again = get_registry().owner(spec).input_options.get("img_size")
        changed = {key: value for key, value in changed.items() if key != again} or None
    return BuildRequest(
        name=spec.qualified_name,
        weights=_weights_argument(wanted, spec, entry, weights),
        predictors=predictor_classes(wanted) if predictors is None else predictors,
        preprocessing=steps,
        options=changed,
        dtype=_dtype(wanted),
        inputs=inputs,
        manifest=wanted,
        replaces_predictors=predictors is not None,
        weights_key=key if key is not None and weights is not None else weights_key,
    )


def complete_from_manifest(
    encoder: Encoder, request: BuildRequest, device: torch.device | None, allow_versions: bool
) -> Encoder:
    """Freeze an encoder as its manifest says, compare it with that, and add the predictors.

    Args:
        encoder: The encoder that was built for the request, without predictors.
        request: What ``request_from_manifest`` returned.
        device: Device of the predictors, None for the CPU.
        allow_versions: Whether library versions may differ from those in the manifest.

    Raises:
        ManifestError: The encoder differs. The message names each difference.
    """
    wanted, predictors = request.manifest or {}, request.predictors or {}
    if wanted["preprocessing"] is None:
        encoder.preprocessing = None
    if wanted.get("frozen"):
        encoder.freeze()
    if wanted.get("labels") is not None:
        encoder.labels = _labels(wanted, encoder)
    refuse_differences(wanted, manifest_of(encoder), allow_versions)
    if predictors:
        if not request.replaces_predictors:
            about = f"The manifest of {wanted['name']}"
            refuse_large_predictors(predictor_counts(wanted), encoder.output_dim, about)
        made = Predictors(encoder.output_dim, predictors)
        encoder.predictors = made.to(device=device, dtype=request.dtype)
    return encoder


def inputs_in(wanted: Mapping[str, Any]) -> InputRequest:
    """Return the channels and the size that a manifest states.

    Raises:
        ManifestError: They are damaged.
    """
    stated = wanted.get("inputs") or {}
    about = f"The manifest of {wanted['name']}"
    if unknown := sorted({*stated} - {"in_chans", "new_channels", "img_size", "expanded"}):
        raise ManifestError(
            f"{about} is damaged: 'inputs' has an unknown {unknown[0]!r:.100}. Write "
            "encoder.manifest() again."
        )
    refuse_large_preprocessing({"crop": stated.get("img_size")}, about)
    try:
        return parse_input(**stated)
    except OptionError as error:
        raise ManifestError(f"{about} is damaged: {one_line(error, 300)}.") from error


def _labels(wanted: Mapping[str, Any], encoder: Encoder) -> tuple[str, ...]:
    labels = tuple(wanted["labels"])
    try:
        refuse_other_count(labels, encoder)
    except ValueError as error:
        raise ManifestError(
            f"The manifest of {wanted['name']} is damaged: {error} Write encoder.manifest() again."
        ) from error
    return labels


def as_options(value: Any) -> Any:
    """Turn lists into tuples at any depth, because catalogs and constructors have tuples."""
    if isinstance(value, dict):
        return {key: as_options(item) for key, item in value.items()}
    return tuple(map(as_options, value)) if isinstance(value, list) else value


def _refuse_unrepeatable(wanted: Mapping[str, Any]) -> None:
    """Refuse random weights, and options that exist only in the process that built the encoder."""
    if wanted["weights"]["tag"] is None and wanted["weights"]["sha256"] is None:
        raise ManifestError(
            f"The manifest is of {wanted['name']} with random weights, identity "
            f"{wanted['identity']}, which cannot be built again. Save the encoder with "
            "encoder.save(folder), and build it with build_encoder(folder)."
        )
    if wanted["not_json"]:
        shown = ", ".join(f"{key}={value}" for key, value in wanted["not_json"].items())
        raise ManifestError(
            f"headstrip cannot build {wanted['name']} from this manifest: it was built with "
            f"options that JSON cannot express ({shown}). Where that encoder exists, save its "
            "weights with torch.save(encoder.backbone.state_dict(), path). Here, build by name "
            "with weights=path and the same options."
        )


def _refuse_trained_predictors(wanted: Mapping[str, Any]) -> None:
    if has_trained_predictors(wanted):
        classes = predictor_classes(wanted)
        first = dict(list(classes.items())[:3])
        raise ManifestError(
            f"The manifest of {wanted['name']} is of an encoder with {len(classes)} predictors "
            f"that were, or may have been, trained, and has no values of predictors. Save the "
            "encoder with encoder.save(folder), which keeps them. Or pass "
            f"predictors={first!r:.200}{' (with all of them)' if first != classes else ''} for new "
            "ones, or predictors={} for none."
        )


def _check_options(
    spec: BackboneSpec, entry: WeightsEntry | None, options: Mapping[str, Any], about: str
) -> None:
    """Refuse options that headstrip sets itself, or that make a network far too large."""
    if reserved := sorted({*options} & {*RESERVED_OPTIONS}):
        raise ManifestError(
            f"{about} has the option {reserved[0]}={options[reserved[0]]!r:.100}, which headstrip "
            "sets itself. Write encoder.manifest() again."
        )
    refuse_large_options(options, about)
    owner = get_registry().owner(spec)
    refuse_large_network(owner, spec, merged_options(spec, entry, options), about)


def _weights_argument(
    wanted: Mapping[str, Any],
    spec: BackboneSpec,
    entry: WeightsEntry | None,
    given: str | os.PathLike[str] | None,
) -> str | os.PathLike[str]:
    tag, file, sha256 = (wanted["weights"][key] for key in ("tag", "file", "sha256"))
    if given is not None:
        # A file that was passed without a tag need not have the options of the weights.
        has_no_tag = entry is None or not dict(entry.options).keys() <= wanted["options"].keys()
        return Path(given) if has_no_tag else f"{tag}={os.fspath(given)}"
    if tag is None or file is not None:
        raise ManifestError(
            f"The encoder of {wanted['name']} was built from somebody's own weights file"
            f"{f', {file}' if file else ''}, with the sha256 {sha256}. Get that file, and call "
            "build_encoder(manifest, weights=path) with its path."
        )
    if problem := changed_since(wanted, spec, entry):
        raise ManifestError(problem)
    return str(tag)


def changed_options(
    spec: BackboneSpec, entry: WeightsEntry | None, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the options that differ from those of the backbone and its weights."""
    own = merged_options(spec, entry)
    changed = {
        key: as_options(value)
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
    # An integer of a thousand digits does not fit into a float.
    except (PreprocessingError, OverflowError) as error:
        raise ManifestError(
            f"{about} is damaged: {one_line(error, 300)}. Write encoder.manifest() again."
        ) from error
    refuse_large_preprocessing(described, about)
    return preprocessing


def _dtype(wanted: Mapping[str, Any]) -> torch.dtype | None:
    dtype: torch.dtype = getattr(torch, wanted["dtype"])
    # Some networks have parameters of several dtypes, which only None leaves unchanged.
    return None if dtype == torch.get_default_dtype() else dtype
