"""Which weights the arguments of ``headstrip weights`` mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import plugins_on_stderr, warn
from headstrip.errors import CatalogError
from headstrip.factory.selection import select_weights
from headstrip.registry.registry import Registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.weights.caches import Caches, Stored
from headstrip.weights.removing import partials

_WILDCARDS = frozenset("*?[")
_EXAMPLE = "weights such as 'resnet50' or 'resnet50.IMAGENET1K_V1'"
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".safetensors.index.json")


def is_pattern(text: str) -> bool:
    """Whether an argument is a shell pattern, and no name."""
    return bool(_WILDCARDS & set(text))


def is_path(text: str) -> bool:
    """Whether an argument is the path of a file, and no name.

    A hub id has a slash in it too, and its source before that.
    """
    return text.endswith(_SUFFIXES) or text.startswith((".", "/", "~")) or os.path.isfile(text)


def refuse_what_is_no_name(text: str, *, paths: bool) -> None:
    """Refuse arguments that mean nothing to a command, though they do elsewhere.

    Args:
        text: An argument, and no pattern.
        paths: Whether the command takes files.

    Raises:
        UsageFailure: It is ``TAG=path``, or the path of a file where a name is asked for.
    """
    tag, equals, path = text.partition("=")
    if equals and os.sep not in tag and not os.path.exists(text):
        instead = f"Name the file alone, {path!r}" if path and paths else f"Name {_EXAMPLE}"
        raise UsageFailure(
            f"{text!r} is neither a name nor a file. 'TAG=path' is what build_encoder's weights= "
            f"takes, to say whose preprocessing a file has. {instead}."
        )
    looks_like_one = text.startswith((".", "/", "~")) or text.endswith(_SUFFIXES)
    if looks_like_one and ":" not in text and not paths:
        raise UsageFailure(
            f"{text!r} is a path, and this command takes names. Name {_EXAMPLE}; `verify` and "
            "`optimize` take files too."
        )


def stored_weights(
    context: click.Context, names: Sequence[str], *, here: bool, partly: bool = False
) -> list[Stored]:
    """Return the sets of weights that names and patterns mean, each file once.

    A name without a tag means the backbone's default weights, as when it is built.

    Args:
        context: The command's.
        names: Names ``[source:]arch[.weights]``, or patterns over them.
        here: Whether a pattern means those alone whose file is on this machine.
        partly: Whether it means those too that are a partial download.

    Raises:
        UsageFailure: A pattern matches nothing.
        HeadstripError: A name is nobody's, or has no weights with a file.
    """
    registry, caches = open_registry(context), Caches()
    found: dict[str, Stored] = {}
    for name in names:
        if is_pattern(name):
            matching = all_stored(registry, caches, name, here=here)
            chosen = [
                one for one in matching
                if one.is_here or not here or (partly and partials(one.entry))
            ]  # fmt: skip
            if not chosen:
                where = " on this machine" if here else ""
                raise UsageFailure(
                    f"No weights{where} match {name!r}. `headstrip weights list` prints those that "
                    "are here, `headstrip list` all backbones."
                )
        else:
            refuse_what_is_no_name(name, paths=False)
            chosen = [_named(registry, caches, name)]
        for one in chosen:
            found.setdefault(str(one.path), one)
    return list(found.values())


def all_stored(
    registry: Registry, caches: Caches, pattern: str | None = None, *, here: bool
) -> Iterator[Stored]:
    """Yield the sets of weights that the catalogs list, by backbone, as far as they have files.

    With ``here`` those are left out of which nothing can be on this machine.
    """
    unreadable = set()
    for spec in registry.specs():
        try:
            entries = registry.listed_weights(spec)
        except CatalogError as error:
            if spec.source not in unreadable:
                unreadable.add(spec.source)
                warn(str(error))
            continue
        short = registry.short_name(spec)
        for entry in entries:
            wanted = pattern is None or _matches(spec, entry, pattern)
            if wanted and (caches.may_have(entry) or not here):
                stored = caches.find(f"{short}.{entry.tag}", entry)
                if stored is not None:
                    yield stored


def _matches(spec: BackboneSpec, entry: WeightsEntry, pattern: str) -> bool:
    names = (spec.name, spec.qualified_name)
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(f"{name}.{entry.tag}", pattern) for name in names
    )


def _named(registry: Registry, caches: Caches, name: str) -> Stored:
    with plugins_on_stderr():
        spec, parts = registry.resolve(name)
        entry = select_weights(registry, spec, parts, "DEFAULT").entry
    # Without a file of the user's own and with weights asked for there is one, or an error.
    assert entry is not None
    short = registry.short_name(spec)
    # A hub id is not split at dots: its weights have no tag in the name.
    stored = caches.find(short if "/" in spec.name else f"{short}.{entry.tag}", entry)
    if stored is None:
        raise UsageFailure(
            f"The weights {entry.tag!r} of {spec.qualified_name} are no file: its plugin loads "
            "them itself."
        )
    return stored
