"""What an encoder is made of, as JSON, and the same encoder built from it again."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstrip import bounded_json
from headstrip.construction import RESERVED_OPTIONS
from headstrip.encoder import Encoder
from headstrip.errors import ManifestError, PreprocessingError, one_line
from headstrip.factory import build_encoder
from headstrip.fingerprint import head_digest
from headstrip.limits import (
    refuse_large_network,
    refuse_large_options,
    refuse_large_predictors,
    refuse_large_preprocessing,
)
from headstrip.manifest_form import (
    FORMAT,
    as_json,
    checked,
    has_trained_predictors,
    is_json,
    predicted,
    refuse_differences,
)
from headstrip.predictors import Predictors
from headstrip.preprocessing import Preprocessing
from headstrip.published import changed_since, distributions_of, find_described
from headstrip.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTLED = ("options", "preprocessing", "dtype")


def manifest_of(encoder: Encoder) -> dict[str, Any]:
    """Write down what an encoder is made of, as plain JSON values.

    A manifest has no values of predictors. A ``UserWarning`` says so where they were trained.

    Args:
        encoder: What ``build_encoder`` gave.

    Returns:
        What ``embedding_manifest`` returns, and: ``predictors``, a list of objects with ``name``,
        ``classes`` and ``trained``, whether the values differ from the initial ones; ``head``, a
        hash of the head's tensors, None without a head; ``frozen``.

    Raises:
        ManifestError: A predictor has no number of classes.
        PluginError: The plugin that builds such encoders is not in this process.
    """
    named = encoder.predictors.named() if encoder.predictors is not None else {}
    classes = {name: _classes(name, module) for name, module in named.items()}
    trained = encoder.predictors is not None and encoder.predictors.trained
    if trained:
        warnings.warn(
            f"The predictors of {encoder.spec.qualified_name} were trained, and a manifest has no "
            f"values of theirs. {_SAVE}",
            stacklevel=3,
        )
    return {
        **embedding_manifest(encoder),
        "predictors": [
            {"name": name, "classes": count, "trained": trained} for name, count in classes.items()
        ],
        "head": head_digest(encoder),
        "frozen": encoder.frozen,
    }


_SAVE = "Save them with torch.save(encoder.predictors.state_dict(), path)."


def embedding_manifest(encoder: Encoder) -> dict[str, Any]:
    """Write down what the embeddings of an encoder depend on: a manifest without predictors.

    Args:
        encoder: What ``build_encoder`` gave.

    Returns:
        ``format``; ``name`` with the tag of its weights; ``weights`` (``tag``, ``sha256`` of the
        file, ``file``: the name of a file of the user's own); ``options``, and under ``not_json``
        what those are that JSON cannot hold; ``preprocessing``; ``dtype``; ``input_shape``;
        ``law``; ``output_dim``; ``predictors``, empty; ``identity`` of the fingerprint, computed
        now; ``versions`` of what computes.

    Raises:
        PluginError: The plugin that builds such encoders is not in this process.
    """
    fingerprint, spec, weights = encoder.fingerprint, encoder.spec, encoder.weights
    tag = weights.tag if weights else None
    plain = {key: value for key, value in encoder.options.items() if is_json(value)}
    others = {key: value for key, value in encoder.options.items() if key not in plain}
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
        "predictors": [],
        "identity": fingerprint.identity,
        "versions": {**fingerprint.environment, **distributions_of(spec)},
    }


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


def build_from_manifest(
    manifest: Mapping[str, Any] | str | os.PathLike[str],
    *,
    allow_versions: bool = False,
    weights: str | os.PathLike[str] | None = None,
    predictors: Mapping[str, int] | None = None,
    **place: Any,
) -> Encoder:
    """Build the encoder that a manifest describes, bit for bit, or refuse.

    Predictors that were not trained have their names and classes, and new initial values.

    Args:
        manifest: What ``manifest_of`` gave, or the path of a JSON file with it.
        allow_versions: Whether other libraries than the manifest names may compute. The last bits
            of embeddings may differ then.
        weights: Where the weights file is, when it is one of the user's own.
        predictors: Attributes and classes of new predictors instead of the manifest's; an empty
            mapping for none.
        place: What ``build_encoder`` takes besides and the manifest does not settle, such as
            ``device``.

    Raises:
        ManifestError: It is no manifest, its encoder cannot be built again, what is built here
            differs (each difference is named), its predictors were trained, or it describes what
            is far larger than such an encoder.
        ValueError: ``place`` has what the manifest settles.
        WeightsError: The weights are missing or damaged.
        UnknownBackboneError: No installed source has the name.
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
    if predictors is None:
        _refuse_trained_predictors(wanted)
    about = f"The manifest of {wanted['name']}"
    preprocessing = preprocessing_in(wanted)
    spec, entry = find_described(wanted)
    options = _changed_options(spec, entry, wanted["options"])
    if options:
        _check_options(spec, entry, options, about)
    classes = predicted(wanted) if predictors is None else dict(predictors)
    encoder = build_encoder(
        spec.qualified_name,
        **{
            **place,
            "weights": _weights_argument(wanted, spec, entry, weights),
            "options": options,
            "preprocessing": preprocessing,
            "dtype": _dtype(wanted),
        },
    )
    if wanted["preprocessing"] is None:
        encoder.preprocessing = None
    if wanted.get("frozen"):
        encoder.freeze()
    refuse_differences(wanted, manifest_of(encoder), allow_versions)
    if classes:
        if predictors is None:
            refuse_large_predictors(classes, encoder.output_dim, about)
        made = Predictors(encoder.output_dim, classes)
        encoder.predictors = made.to(device=place.get("device"), dtype=_dtype(wanted))
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
