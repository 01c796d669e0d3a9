"""Find the installed backbone and weights that a manifest names, and the versions it states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

from headstrip._version import __version__
from headstrip.errors import UnknownBackboneError
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry

_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")
_EXTRA = re.compile(r"extra == ['\"]([\w.-]+)")
_SAFE_TO_SHOW = re.compile(r"[A-Za-z0-9][\w.+!-]{0,60}")
_ENVIRONMENT = {"python", "torch", "machine"}
_CORE = {"headstrip", "torchvision"}
_MAX_SHOWN = 5


def find_described(described: Mapping[str, Any]) -> tuple[BackboneSpec, WeightsEntry | None]:
    """Find the installed backbone of a manifest, and the weights that have its tag.

    Args:
        described: A manifest, or the fields of one that an embeddings file contains.

    Raises:
        UnknownBackboneError: No installed source has the name. The message names the versions that
            the manifest was written with.
    """
    registry = get_registry()
    try:
        spec, _ = registry.resolve(described["name"])
    except UnknownBackboneError as error:
        raise UnknownBackboneError(f"{error}{to_install(described)}") from error
    entries = {entry.tag: entry for entry in registry.weights(spec)}
    return spec, entries.get(described["weights"].get("tag"))


def to_install(described: Mapping[str, Any]) -> str:
    """Return how to install a backbone that no source has, from the versions in a manifest.

    Returns:
        A sentence after a space; empty if the manifest states no versions.
    """
    written = written_with(described)
    if not written:
        return ""
    core = _named(_core_versions(), set()).split(", ")
    if not {*written.split(", ")} <= {*core}:
        return f" It was written with {written}. Install that."
    return (
        f" It was written with {written}, which is installed. If the process that wrote it "
        "registered a plugin, call headstrip.register_plugin here first."
    )


def changed_since(
    described: Mapping[str, Any], spec: BackboneSpec, entry: WeightsEntry | None
) -> str | None:
    """Return why the tag of a manifest no longer names the same weights, or None.

    Args:
        described: As in ``find_described``, with published weights and not a file of the user.
        spec: The backbone that ``find_described`` returned.
        entry: The weights that ``find_described`` returned.
    """
    tag, sha256 = described["weights"].get("tag"), described["weights"].get("sha256")
    if entry is not None and (sha256 is None or sha256.startswith(entry.sha256)):
        return None
    difference = (
        f"has no weights {tag!r} here"
        if entry is None
        else f"has other weights under the tag {tag!r} here, with the sha256 {entry.sha256}"
    )
    here = _named(distributions_of(spec), _CORE | _ENVIRONMENT) or _named(_core_versions(), set())
    then = written_with(described) or "other versions"
    return (
        f"{spec.qualified_name} {difference}, and the manifest's weights have the sha256 {sha256}. "
        f"The manifest was written with {then}, and {here} is installed here. Install the "
        "version that it was written with, or pass weights=path of the file with that hash."
    )


def distributions_of(spec: BackboneSpec) -> dict[str, str]:
    """Return the versions of headstrip, of the plugin's distribution and of its requirements."""
    found = {"headstrip": __version__}
    distribution, _, version = get_registry().owner(spec).origin.partition(" ")
    if not version:
        return found
    found[distribution] = version
    required = versions_required_by(distribution)
    return found | {name: required[name] for name in required if name not in found}


def versions_required_by(distribution: str, extra: str | None = None) -> dict[str, str]:
    """Return the installed versions of a distribution's requirements.

    Args:
        distribution: Name of the distribution; one that is not installed requires nothing.
        extra: The extra whose requirements are returned; None for those without any extra.
    """
    found = {}
    try:
        requirements = metadata.requires(distribution) or ()
    except metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        name, of_extra = _REQUIREMENT.match(requirement), _EXTRA.search(requirement)
        if name and (of_extra[1] if of_extra else None) == extra:
            # A requirement may be for another platform.
            with suppress(metadata.PackageNotFoundError):
                found[name[0]] = metadata.version(name[0])
    return found


def written_with(described: Mapping[str, Any]) -> str:
    """Return the distributions that a manifest was written with: the plugin's, else headstrip's.

    Returns:
        A text such as ``headstrip-timm 0.1.0, timm 1.0.31``; empty if the manifest names none.
    """
    versions = _versions_in(described)
    return _named(versions, _CORE) or _named(versions, set())


def versions_changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return which versions wrote the embeddings of a file and are not installed here.

    Args:
        there: The manifest in the file.
        here: The manifest of the encoder that was built now.

    Returns:
        A sentence after a space; empty if the versions are equal, or not known.
    """
    then, now = _versions_in(there), _versions_in(here)
    written = _named({name: then[name] for name in then if now.get(name) != then[name]}, set())
    installed = _named({name: now[name] for name in now if then.get(name) != now[name]}, set())
    if not written or not installed:
        return ""
    return f" The file was written with {written}, and {installed} is installed here."


def _versions_in(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions of distributions that a manifest states."""
    versions = described.get("versions") or described.get("environment")
    if not isinstance(versions, Mapping):
        return {}
    return {name: versions[name] for name in versions if name not in _ENVIRONMENT}


def _core_versions() -> dict[str, str]:
    return {"headstrip": __version__, "torchvision": metadata.version("torchvision")}


def _named(versions: Mapping[str, Any], without: set[str]) -> str:
    """Join names and versions; leave out what cannot be a name or a version."""
    pairs = [
        f"{name} {version}"
        for name, version in versions.items()
        if name not in without
        and all(isinstance(part, str) and _SAFE_TO_SHOW.fullmatch(part) for part in (name, version))
    ]
    return ", ".join(pairs[:_MAX_SHOWN])
