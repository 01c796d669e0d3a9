"""Find the weights that a call asks for: a tag, a file, both, or none."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from headstrip.errors import WeightsError
from headstrip.registry.registry import Registry
from headstrip.registry.suggestions import joined
from headstrip.spec import BackboneSpec, Name, WeightsEntry
from headstrip.system.arguments import type_of
from headstrip.weights.addresses import SUFFIXES
from headstrip.weights.problems import folder_advice

WeightsArgument = str | os.PathLike[str] | Enum | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights that a call asks for.

    Attributes:
        entry: The weights whose options and preprocessing apply, None for random weights.
        path: The user's own file, None for published weights.
        is_named: Whether the user named the tag, alone or with a file.
    """

    entry: WeightsEntry | None
    path: Path | None = None
    is_named: bool = True


def select_weights(
    registry: Registry, spec: BackboneSpec, name: Name, weights: WeightsArgument
) -> Selection:
    """Find the weights that a name and a ``weights=`` argument ask for together.

    Args:
        registry: The registry that lists the weights.
        spec: The backbone.
        name: The parts of its name, perhaps with a tag.
        weights: ``"DEFAULT"``, a tag or a member of torchvision's enumerations, a path,
            ``"tag=path"``, or None for random weights.

    Raises:
        ValueError: The tag in the name and ``weights`` differ, or ``weights`` has a wrong type or
            belongs to another architecture.
        WeightsError: There is no such tag, or there are no weights at all.
    """
    if not isinstance(weights, (str, os.PathLike, Enum, type(None))):
        raise ValueError(
            f"weights={weights!r} is {type_of(weights)}. "
            "Pass 'DEFAULT', a tag, a path, or None for random weights."
        )
    wanted = weights.name if isinstance(weights, Enum) else weights
    is_its_file = isinstance(wanted, str) and wanted.startswith(f"{name.tag}=")
    if name.tag is not None and not is_its_file:
        if wanted not in ("DEFAULT", name.tag):
            raise ValueError(
                f"The name asks for the weights {name.tag!r}, but weights={weights!r} asks for "
                "others. Leave one of them out. For your own file with the preprocessing of these "
                f"weights, pass weights='{name.tag}=path'."
            )
        wanted = name.tag
    if wanted is None:
        return Selection(None)
    entries = registry.weights(spec)
    path = _path(wanted, entries, registry, spec)
    if path is not None:
        return path
    if not entries:
        raise WeightsError(_no_weights(registry, spec, str(wanted)))
    chosen = entries[0] if wanted == "DEFAULT" else _by_tag(str(wanted), entries, registry, spec)
    if isinstance(weights, Enum):
        _check_member(weights, chosen, spec)
    return Selection(chosen)


def as_weights(path: str) -> str:
    """Return a file's path in a form that ``weights=`` does not read as a tag."""
    is_path = os.sep in path or (path.endswith(SUFFIXES) and "=" not in path)
    return path if is_path else os.path.join(os.curdir, path)


def _path(
    wanted: str | os.PathLike[str],
    entries: tuple[WeightsEntry, ...],
    registry: Registry,
    spec: BackboneSpec,
) -> Selection | None:
    """Return the selection if ``wanted`` is a file, None if it is a tag."""
    default = entries[0] if entries else None
    if not isinstance(wanted, str):
        return Selection(default, Path(os.path.expanduser(wanted)), is_named=False)
    tags = {entry.tag for entry in entries} | {"DEFAULT"}
    if wanted in tags:
        return None
    tag, equals, file = wanted.partition("=")
    named = Path(os.path.expanduser(wanted))
    # Unlike Path.exists, os.path.exists accepts a name that is too long.
    if equals and not (tag and file) and not os.path.exists(named):
        raise WeightsError(
            f"weights={wanted!r} has nothing {'after' if tag else 'before'} its '='. Write "
            "'TAG=path' for a file that has the options and the preprocessing of a tag, or a path."
        )
    if equals and os.sep not in tag and entries and (tag in tags or not os.path.exists(named)):
        entry = default if tag == "DEFAULT" else _by_tag(tag, entries, registry, spec)
        return Selection(entry, Path(os.path.expanduser(file)))
    if wanted.endswith(SUFFIXES) or os.sep in wanted:
        return Selection(default, named, is_named=False)
    return None


def _check_member(member: Enum, entry: WeightsEntry, spec: BackboneSpec) -> None:
    """Refuse a member of another architecture's enumeration that has the same tag."""
    url = getattr(member, "url", None)
    if url is not None and url not in entry.locations:
        raise ValueError(
            f"weights={member!s} does not belong to {spec.qualified_name}. "
            f"Pass weights of this backbone, such as {entry.tag!r}."
        )


def _by_tag(
    tag: str, entries: tuple[WeightsEntry, ...], registry: Registry, spec: BackboneSpec
) -> WeightsEntry:
    tags = {entry.tag: entry for entry in entries}
    if tag in tags:
        return tags[tag]
    similar = difflib.get_close_matches(tag, tags, n=3, cutoff=0.0)
    others = len(tags) - len(similar)
    more = f" and {others} more (`headstrip show {spec.qualified_name}`)" if others else ""
    raise WeightsError(
        f"{spec.qualified_name} has no weights {tag!r}. {_elsewhere(registry, spec, tag)}"
        f"It has {', '.join(similar)}{more}; "
        f"{_as_path(tag) or 'for a file, pass its path'}."
    )


def _elsewhere(registry: Registry, spec: BackboneSpec, tag: str) -> str:
    """Name the other sources that have a backbone of this name with these weights."""
    names = [
        f"{other.qualified_name}.{tag}"
        for other in registry.specs()
        if other.name == spec.name and other.source != spec.source
        if any(entry.tag == tag for entry in registry.listed_weights(other))
    ]
    return f"Write {joined(names)}. " if names else ""


def _as_path(wanted: str) -> str:
    """Return how to pass a file or folder of this name in the working folder, else ''."""
    if os.path.isdir(wanted):
        return f"{wanted!r} here is a folder. {folder_advice(Path(wanted))}".removesuffix(".")
    return f"the file of that name here is './{wanted}'" if os.path.isfile(wanted) else ""


def _no_weights(registry: Registry, spec: BackboneSpec, wanted: str) -> str:
    others = [
        other
        for other in registry.specs()
        if other.source == spec.source and other.default_weights and other.task == spec.task
    ]
    family = [other.name for other in others if other.family == spec.family]
    names = family or [other.name for other in others]
    similar = difflib.get_close_matches(spec.name, names, n=3, cutoff=0.0)
    hint = f" Similar backbones that have some: {', '.join(similar)}." if similar else ""
    own = f": {path}" if (path := _as_path(wanted)) else ""
    return (
        f"{spec.qualified_name} has no pretrained weights.{hint} Pass weights=None for random "
        f"ones, or the path of your file{own}."
    )
