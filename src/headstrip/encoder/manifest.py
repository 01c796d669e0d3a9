"""Manifests: describe an encoder as JSON, check such JSON, and compare two manifests."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from headstrip._version import __version__
from headstrip.encoder.attribute import KINDS, Attribute, attributes_of
from headstrip.encoder.bounds import refuse_unbounded
from headstrip.encoder.fingerprint import Fingerprint, head_digest
from headstrip.encoder.predictors import Predictors
from headstrip.errors import ManifestError
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.head import Law
from headstrip.registry.distributions import distributions_of, written_with
from headstrip.registry.registry import get_registry
from headstrip.spec import LAWS, BackboneSpec, WeightsEntry
from headstrip.system.arguments import type_of

FORMAT = 1
"""Version of the format; a later headstrip writes a higher one."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# The name and the layout of the user's file and the version of Python do not change embeddings.
# headstrip adds the predictors after the comparison.
_NOT_COMPARED = {"weights.file", "weights.key", "versions.python", "predictors"}
_MAX_SHOWN = 8
_MAX_TEXT = 1_000
_SAVE = "Save the encoder with encoder.save(folder), which keeps them."
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class DescribedEncoder(Protocol):
    """The attributes of ``Encoder`` that a manifest describes."""

    spec: BackboneSpec
    weights: WeightsEntry | None
    weights_sha256: str | None
    weights_file: str | None
    weights_key: str | None
    options: dict[str, Any]
    inputs: dict[str, Any]
    preprocessing: Preprocessing | None
    input_shape: tuple[int, ...]
    law: Law
    output_dim: int
    predictors: Predictors | None
    head: nn.Module | None
    labels: tuple[str, ...] | None

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint, computed now."""

    @property
    def frozen(self) -> bool:
        """Whether the backbone is frozen."""


def manifest_of(encoder: DescribedEncoder) -> dict[str, Any]:
    """Describe an encoder as plain JSON values.

    A manifest does not contain the values of the predictors. If they were trained, a
    ``UserWarning`` says so.

    Args:
        encoder: An encoder that ``build_encoder`` returned.

    Returns:
        The fields of ``embedding_manifest``, and: ``predictors``, a list of objects with ``name``,
        ``classes`` and ``trained`` (whether the values differ from the initial ones), and with
        ``kind`` and ``labels`` if the classes have names or the kind is not ``class``; ``head``, a
        hash of the head's tensors, None without a head; ``frozen``; ``labels``, the names of the
        head's classes, None if published weights have them or they are unknown.

    Raises:
        ManifestError: A predictor is not a linear layer.
        PluginError: The plugin that builds such encoders cannot be used in this process.
    """
    named = encoder.predictors.named() if encoder.predictors is not None else {}
    classes = {name: _classes(name, module) for name, module in named.items()}
    trained = encoder.predictors is not None and encoder.predictors.trained
    if trained:
        warnings.warn(
            f"The predictors of {encoder.spec.qualified_name} were trained, but a manifest does "
            f"not contain their values. {_SAVE}",
            stacklevel=3,
        )
    return {
        **embedding_manifest(encoder),
        "predictors": [
            {
                "name": name,
                "classes": count,
                "trained": trained,
                **_named(encoder.predictors, name, count),
            }
            for name, count in classes.items()
        ],
        "head": head_digest(encoder.head),
        "frozen": encoder.frozen,
        "labels": _own_labels(encoder),
    }


def embedding_manifest(encoder: DescribedEncoder) -> dict[str, Any]:
    """Describe what the embeddings of an encoder depend on: a manifest without predictors.

    Args:
        encoder: An encoder that ``build_encoder`` returned.

    Returns:
        ``format``; ``name`` with the tag of its weights; ``weights`` (``tag``, ``sha256`` of the
        file, ``file``: the name of a file that the user passed, ``key``: where the state dict is in
        that file); ``options``; ``not_json``, descriptions of the options that JSON cannot express;
        ``inputs``, the ``in_chans``, ``new_channels`` and ``img_size`` that the user passed, if
        any; ``preprocessing``; ``dtype``; ``input_shape``; ``law``; ``output_dim``;
        ``predictors``, empty; ``identity`` of the fingerprint, computed now; ``versions`` of the
        libraries that compute.

    Raises:
        PluginError: The plugin that builds such encoders cannot be used in this process.
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
            "key": encoder.weights_key,
        },
        "options": as_json(plain),
        "not_json": {key: _ADDRESS.sub("", repr(value)) for key, value in others.items()},
        **({"inputs": encoder.inputs} if encoder.inputs else {}),
        "preprocessing": encoder.preprocessing.to_json() if encoder.preprocessing else None,
        "dtype": fingerprint.dtype,
        "input_shape": list(encoder.input_shape),
        "law": encoder.law,
        "output_dim": encoder.output_dim,
        "predictors": [],
        "identity": fingerprint.identity,
        "versions": {**fingerprint.environment, **distributions_of(spec)},
    }


def _own_labels(encoder: DescribedEncoder) -> list[str] | None:
    """Return the names of the classes, None if published weights bring them."""
    labels, weights = encoder.labels, encoder.weights
    if labels is None or weights is None or encoder.weights_file is not None:
        return None if labels is None else list(labels)
    published = get_registry().labels(encoder.spec, weights)
    return None if labels == published else list(labels)


def _tagged(spec: BackboneSpec, tag: str | None) -> str:
    # A dot is part of a hub id, so no tag can follow it.
    has_no_tag = tag is None or "/" in spec.name
    return spec.qualified_name if has_no_tag else f"{spec.qualified_name}.{tag}"


def _classes(name: str, module: nn.Module) -> int:
    if not isinstance(module, nn.Linear):
        raise ManifestError(
            f"The predictor {name!r} is {type_of(module)}, and a manifest describes linear "
            "layers only. Build the encoder without predictors, and save your modules separately."
        )
    return module.out_features


def _named(predictors: Predictors | None, name: str, count: int) -> dict[str, Any]:
    """Return the kind and labels of an attribute; empty if its number of classes says it all."""
    attributes = predictors.attributes if predictors is not None else ()
    one = next((one for one in attributes if one.name == name), None)
    if one is None or one.outputs != count or attributes_of({name: count}) == (one,):
        return {}
    return {"kind": one.kind, "labels": list(one.classes)}


def is_json(value: object) -> bool:
    """Whether a value is unchanged after a round trip through JSON; tuples may become lists."""
    if isinstance(value, (list, tuple)):
        return all(map(is_json, value))
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(is_json, value.values()))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def as_json(value: Any) -> Any:
    """Turn tuples into lists, at any depth."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def checked(content: Any, about: str) -> dict[str, Any]:
    """Return a manifest after checking the types of its fields.

    Args:
        content: The value to check.
        about: Where it came from: the subject of the error message.

    Raises:
        ManifestError: It is not a manifest, is damaged, or has the format of another headstrip.
    """
    if not isinstance(content, Mapping) or "format" not in content:
        raise ManifestError(
            f"{about} is not a manifest: it has no 'format'. Pass what encoder.manifest() returns."
        )
    refuse_unbounded(content, about)
    if content["format"] != FORMAT:
        raise ManifestError(
            f"{about} has the format {content['format']!r:.100} of manifests, and headstrip "
            f"{__version__} reads the format {FORMAT}. Install the version of headstrip that the "
            "manifest states under 'versions'."
        )
    for key, (is_right, words) in {**_FIELDS, **_LATER_FIELDS}.items():
        if key in _LATER_FIELDS and key not in content:
            continue
        if key not in content or not is_right(content[key]):
            found = f"{content[key]!r:.100}" if key in content else "nothing"
            raise ManifestError(
                f"{about} is damaged: {key!r} must be {words}, and is {found}. Write "
                "encoder.manifest() again."
            )
    return dict(content)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() >= {"tag", "sha256", "file"}
        and all(value[key] is None or _is_text(value[key]) for key in ("tag", "file"))
        and (value["sha256"] is None or _is_hash(value["sha256"]))
        # Manifests of earlier versions have no key. It is empty if the file has nothing else.
        and (value.get("key") in (None, "") or _is_text(value["key"]))
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and is_json(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_labels(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def _is_predictors(value: object) -> bool:
    if not isinstance(value, list) or not all(map(_is_predictor, value)):
        return False
    return len({_pair(one)[0] for one in value}) == len(value)


def _is_predictor(value: object) -> bool:
    if isinstance(value, dict):
        return (
            {"name", "classes", "trained"} <= value.keys()
            and _is_named_count(value["name"], value["classes"])
            and isinstance(value["trained"], bool)
            and ("kind" not in value or _is_attribute(value))
        )
    return isinstance(value, list) and len(value) == 2 and _is_named_count(*value)


def _is_attribute(value: Mapping[str, Any]) -> bool:
    kind, labels = value["kind"], value.get("labels")
    if kind not in KINDS or not isinstance(labels, list) or not all(map(_is_str, labels)):
        return False
    if kind == "number":
        return not labels and bool(value["classes"] == 1)
    return bool(len(set(labels)) == len(labels) == value["classes"])


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _is_named_count(name: object, classes: object) -> bool:
    return isinstance(name, str) and len(name) <= _MAX_TEXT and _is_count(classes)


def _pair(predictor: Any) -> tuple[str, int]:
    if isinstance(predictor, dict):
        return predictor["name"], predictor["classes"]
    return predictor[0], predictor[1]


def predictor_classes(manifest: Mapping[str, Any]) -> dict[str, int | Attribute]:
    """Return the attributes that a manifest has predictors of, as ``build_encoder`` takes them."""
    return {
        _pair(one)[0]: Attribute(one["name"], one["kind"], tuple(one["labels"]))
        if isinstance(one, dict) and "kind" in one
        else _pair(one)[1]
        for one in manifest["predictors"]
    }


def predictor_counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of outputs of each predictor in a manifest."""
    return dict(map(_pair, manifest["predictors"]))


def has_trained_predictors(manifest: Mapping[str, Any]) -> bool:
    """Whether the predictors in a manifest were trained, or may have been.

    Manifests of earlier versions have pairs of name and classes, which do not say so.
    """
    return any(not isinstance(one, dict) or one["trained"] for one in manifest["predictors"])


def _is_dtype(value: object) -> bool:
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "a backbone's name"),
    "weights": (_is_weights, "an object with tag, sha256 and file"),
    "options": (_is_object, "an object of constructor arguments"),
    "not_json": (_is_texts, "an object of descriptions"),
    "preprocessing": (lambda value: value is None or _is_object(value), "an object, or null"),
    "dtype": (_is_dtype, "a floating-point type such as 'float32'"),
    "input_shape": (
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_count, value)),
        "a list of sizes",
    ),
    "law": (lambda value: value in LAWS, f"one of {', '.join(LAWS)}"),
    "output_dim": (_is_count, "a positive integer"),
    "predictors": (_is_predictors, "a list of objects with name, classes and trained"),
    "identity": (_is_hash, "a sha256"),
    "versions": (_is_texts, "an object of versions"),
}
# Manifests of earlier versions and those in embeddings files lack these. `inputs` is missing if the
# user passed no channels and no size.
_LATER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "head": (lambda value: value is None or _is_hash(value), "a sha256, or null"),
    "inputs": (_is_object, "an object with in_chans, new_channels and img_size"),
    "frozen": (lambda value: isinstance(value, bool), "true or false"),
    "labels": (_is_labels, "a list of names, or null"),
}


def refuse_differences(
    wanted: Mapping[str, Any],
    found: Mapping[str, Any],
    allow_versions: bool,
    remedy: str | None = None,
) -> None:
    """Compare a manifest with the manifest of the encoder that was built for it.

    Args:
        wanted: The manifest that the caller passed.
        found: The manifest of the encoder.
        allow_versions: Whether the versions of libraries may differ.
        remedy: The advice if more than versions differ; None for the advice about a manifest.

    Raises:
        ManifestError: The manifests differ.
    """
    found = {key: value for key, value in found.items() if key in wanted or key in _FIELDS}
    here, there = dict(_flat(found)), dict(_flat(wanted))
    differ = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    differ = [key for key in differ if key not in _NOT_COMPARED]
    if allow_versions:
        differ = [key for key in differ if not key.startswith("versions.")]
    if differ:
        shown = "; ".join(
            f"{key} is {there.get(key)!r:.200} in the manifest and {here.get(key)!r:.200} here"
            for key in differ[:_MAX_SHOWN]
        )
        if len(differ) > _MAX_SHOWN:
            shown += f"; and {len(differ) - _MAX_SHOWN} more"
        raise ManifestError(
            f"The encoder built here differs from the manifest of {wanted['name']}: {shown}. "
            f"{_remedy(differ, wanted, remedy)}"
        )


def _flat(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a manifest, with each entry of an object as a separate field."""
    for key in (*_FIELDS, *(later for later in _LATER_FIELDS if later in manifest)):
        value = manifest[key]
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", part) for inner, part in value.items())
        else:
            yield key, value


def _remedy(differ: list[str], wanted: Mapping[str, Any], remedy: str | None) -> str:
    if all(key.startswith("versions.") for key in differ):
        return "Install those versions, or pass allow_versions=True (--allow-versions)."
    if remedy is not None:
        return remedy
    if "weights.sha256" in differ:
        hint = "Pass weights=path of the file with that hash."
        written = written_with(wanted)
        if wanted["weights"]["file"] is not None or not written:
            return hint
        return f"{hint} The manifest was written with {written}."
    if {*differ} <= {"identity", "head"}:
        return (
            "The encoder was changed after it was built, for example by training. Save it with "
            "encoder.save(folder), and build it with build_encoder(folder)."
        )
    return "Build by name, and use the manifest of that encoder."
