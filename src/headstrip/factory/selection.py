"""Which weights a call means: a tag, a file, both, or none."""

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

WeightsArgument = str | os.PathLike[str] | Enum | None
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights that a call means.

    Attributes:
        entry: Whose options and preprocessing apply, None for random weights.
        path: The user's own file, None for the entry's.
        is_named: Whether the user named the tag, for a file of the user's own too.
    """

    entry: WeightsEntry | None
    path: Path | None = None
    is_named: bool = True


def select_weights(
    registry: Registry, spec: BackboneSpec, name: Name, weights: WeightsArgument
) -> Selection:
    """Find the weights that a name and a ``weights=`` argument mean together.

    Args:
        registry: Where the entries come from.
        spec: The backbone.
        name: The parts of its name, perhaps with a tag.
        weights: ``"DEFAULT"``, a tag or a member of torchvision's enumerations, a path,
            ``"tag=path"``, or None for random weights.

    Raises:
        ValueError: The tag in the name and ``weights`` differ, or ``weights`` is of another kind
            or another architecture's.
        WeightsError: There is no such tag, or there are no weights at all.
    """
    if not isinstance(weights, (str, os.PathLike, Enum, type(None))):
        raise ValueError(
            f"weights={weights!r} is a {type(weights).__name__}. "
            "Pass 'DEFAULT', a tag, a path, or None for random weights."
        )
    wanted = weights.name if isinstance(weights, Enum) else weights
    is_its_file = isinstance(wanted, str) and wanted.startswith(f"{name.tag}=")
    if name.tag is not None and not is_its_file:
        if wanted not in ("DEFAULT", name.tag):
            raise ValueError(
                f"The name asks for the weights {name.tag!r} and weights={weights!r} for others. "
                "Leave one of them out; 'TAG=path' says whose preprocessing a file has."
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


def _path(
    wanted: str | os.PathLike[str],
    entries: tuple[WeightsEntry, ...],
    registry: Registry,
    spec: BackboneSpec,
) -> Selection | None:
    """Read ``wanted`` as a file, None when it is a tag."""
    default = entries[0] if entries else None
    if not isinstance(wanted, str):
        return Selection(default, Path(wanted).expanduser(), is_named=False)
    tags = {entry.tag for entry in entries} | {"DEFAULT"}
    if wanted in tags:
        return None
    tag, equals, file = wanted.partition("=")
    named = Path(wanted).expanduser()
    if equals and not (tag and file) and not named.exists():
        raise WeightsError(
            f"weights={wanted!r} has nothing {'after' if tag else 'before'} its '='. Write "
            "'TAG=path' for a file that has the options and the preprocessing of a tag, or a path."
        )
    if equals and os.sep not in tag and entries and (tag in tags or not named.exists()):
        entry = default if tag == "DEFAULT" else _by_tag(tag, entries, registry, spec)
        return Selection(entry, Path(file).expanduser())
    if wanted.endswith(_SUFFIXES) or os.sep in wanted:
        return Selection(default, named, is_named=False)
    return None


def _check_member(member: Enum, entry: WeightsEntry, spec: BackboneSpec) -> None:
    """Refuse a member of another architecture's enumeration, whose tags are named alike."""
    url = getattr(member, "url", None)
    if url is not None and url not in entry.locations:
        raise ValueError(
            f"weights={member!s} are not those of {spec.qualified_name}. "
            f"Pass one of its own, such as {entry.tag!r}."
        )


def _by_tag(
    tag: str, entries: tuple[WeightsEntry, ...], registry: Registry, spec: BackboneSpec
) -> WeightsEntry:
    tags = {entry.tag: entry for entry in entries}
    if tag in tags:
        return tags[tag]
    near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.0)
    raise WeightsError(
        f"{spec.qualified_name} has no weights {tag!r}. {_elsewhere(registry, spec, tag)}"
        f"It has {', '.join(near)}{' and more' if len(tags) > len(near) else ''}; "
        f"{_as_path(tag) or 'a file is named by its path'}."
    )


def _elsewhere(registry: Registry, spec: BackboneSpec, tag: str) -> str:
    """Name the other sources whose backbone of that name has such weights."""
    names = [
        f"{other.qualified_name}.{tag}" for other in registry.specs()
        if other.name == spec.name and other.source != spec.source
        and any(entry.tag == tag for entry in registry.listed_weights(other))
    ]  # fmt: skip
    return f"Write {joined(names)}. " if names else ""


def _as_path(wanted: str) -> str:
    """Say how a file that is there is named, nothing where there is none."""
    return f"the file of that name here is './{wanted}'" if Path(wanted).is_file() else ""


def _no_weights(registry: Registry, spec: BackboneSpec, wanted: str) -> str:
    others = [
        other for other in registry.specs()
        if other.source == spec.source and other.default_weights and other.task == spec.task
    ]  # fmt: skip
    family = [other.name for other in others if other.family == spec.family]
    near = difflib.get_close_matches(spec.name, family or [o.name for o in others], n=3, cutoff=0.0)
    hint = f" These near it have some: {', '.join(near)}." if near else ""
    return (
        f"{spec.qualified_name} has no pretrained weights.{hint} "
        "Pass weights=None for random ones, or a path to a file of your own"
        f"{': ' + own if (own := _as_path(wanted)) else ''}."
    )
