"""The form of a manifest: which fields it has, and how two of them are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from headstrip import __version__
from headstrip.errors import ManifestError
from headstrip.limits import refuse_unbounded
from headstrip.published import written_with
from headstrip.spec import LAWS

FORMAT = 1
"""Version of the form; a higher one was written by a later headstrip."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Where the user's own file is, and Python, which computes nothing itself, may differ.
_NOT_COMPARED = {"weights.file", "versions.python", "predictors"}
_MOST_SHOWN = 8
_MOST_TEXT = 1_000


def is_json(value: object) -> bool:
    """Whether JSON gives a value back as it was, but for tuples, which it makes lists of."""
    if isinstance(value, (list, tuple)):
        return all(map(is_json, value))
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(is_json, value.values()))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def as_json(value: Any) -> Any:
    """Make lists of tuples, at any depth."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def checked(content: Any, about: str) -> dict[str, Any]:
    """Return a manifest whose fields are of the right types.

    Args:
        content: What is to be one.
        about: How a message begins that says where it came from.

    Raises:
        ManifestError: It is none, is damaged, or is of a later form.
    """
    if not isinstance(content, Mapping) or "format" not in content:
        raise ManifestError(
            f"{about} is no manifest: it has no 'format'. Take encoder.manifest(), as it is."
        )
    refuse_unbounded(content, about)
    if content["format"] != FORMAT:
        raise ManifestError(
            f"{about} has the format {content['format']!r:.100}, and this headstrip "
            f"({__version__}) reads {FORMAT}. Install the headstrip that it names under 'versions'."
        )
    for key, (is_right, words) in {**_FIELDS, **_LATER_FIELDS}.items():
        if key in _LATER_FIELDS and key not in content:
            continue
        if key not in content or not is_right(content[key]):
            found = f"{content[key]!r:.100}" if key in content else "nothing"
            raise ManifestError(
                f"{about} is damaged: {key!r} has to be {words}, and is {found}. Take "
                "encoder.manifest() anew."
            )
    return dict(content)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_TEXT


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
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and is_json(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


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
        )
    return isinstance(value, list) and len(value) == 2 and _is_named_count(*value)


def _is_named_count(name: object, classes: object) -> bool:
    return isinstance(name, str) and len(name) <= _MOST_TEXT and _is_count(classes)


def _pair(predictor: Any) -> tuple[str, int]:
    if isinstance(predictor, dict):
        return predictor["name"], predictor["classes"]
    return predictor[0], predictor[1]


def predicted(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the attributes in a manifest, and their numbers of classes."""
    return dict(map(_pair, manifest["predictors"]))


def has_trained_predictors(manifest: Mapping[str, Any]) -> bool:
    """Whether predictors in a manifest have learnt something, or may have.

    Manifests of earlier versions have pairs of name and classes, which do not say it.
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
    "output_dim": (_is_count, "a whole number above zero"),
    "predictors": (_is_predictors, "a list of objects with name, classes and trained"),
    "identity": (_is_hash, "a sha256"),
    "versions": (_is_texts, "an object of versions"),
}
# Manifests of embeddings, and earlier ones, lack them.
_LATER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "head": (lambda value: value is None or _is_hash(value), "a sha256, or null"),
    "frozen": (lambda value: isinstance(value, bool), "true or false"),
}


def refuse_differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], allow_versions: bool
) -> None:
    """Compare what was asked for with what was built.

    Raises:
        ManifestError: They differ.
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
            for key in differ[:_MOST_SHOWN]
        )
        if len(differ) > _MOST_SHOWN:
            shown += f"; and {len(differ) - _MOST_SHOWN} more"
        raise ManifestError(
            f"What is built here is not the encoder of the manifest of {wanted['name']}: {shown}. "
            f"{_remedy(differ, wanted)}"
        )


def _flat(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the comparable parts of a manifest: the entries of its objects one by one."""
    for key in (*_FIELDS, *(later for later in _LATER_FIELDS if later in manifest)):
        value = manifest[key]
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", part) for inner, part in value.items())
        else:
            yield key, value


def _remedy(differ: list[str], wanted: Mapping[str, Any]) -> str:
    if "weights.sha256" in differ:
        hint = "Pass weights=path of the file with that hash."
        written = written_with(wanted)
        is_own = wanted["weights"]["file"] is not None or not written
        return hint if is_own else f"{hint} The manifest was written with {written}."
    if all(key.startswith("versions.") for key in differ):
        return "Install those versions, or pass allow_versions=True (--allow-versions)."
    if differ == ["head"]:
        return (
            "Its head was changed after it was built. Save the head with "
            "torch.save(encoder.head.state_dict(), path), build by name, and load it into "
            "encoder.head."
        )
    if set(differ) == {"identity", "head"}:
        return (
            "It was changed after it was built, such as by training. Save it with "
            "torch.save(encoder.state_dict(), path), build by name, and load it with "
            "encoder.load_state_dict."
        )
    if differ == ["identity"]:
        return (
            "It was changed after it was built, such as by training. Save it with "
            "torch.save(encoder.backbone.state_dict(), path), build with weights=path, and take "
            "that encoder's manifest."
        )
    return "Build by name, and take that encoder's manifest."
