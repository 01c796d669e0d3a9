"""The arguments of ``headstrip weights``: find the files for names, patterns and paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import plugins_on_stderr, warn
from headstrip.errors import CatalogError
from headstrip.factory.selection import select_weights
from headstrip.registry.registry import Registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.weights.addresses import SUFFIXES
from headstrip.weights.caches import Caches, WeightsLocation

_WILDCARDS = frozenset("*?[")
_EXAMPLE = "a name such as 'resnet50' or 'resnet50.IMAGENET1K_V1'"

WeightsOrPath = WeightsLocation | Path
"""A set of weights in a catalog, or the path of a file that no catalog names."""


def is_pattern(text: str) -> bool:
    """Return whether an argument is a shell pattern."""
    return bool(_WILDCARDS & set(text))


def is_path(text: str) -> bool:
    """Return whether an argument is the path of a file.

    A hub id also contains a slash, but it begins with its source.
    """
    return text.endswith(SUFFIXES) or text.startswith((".", "/", "~")) or os.path.isfile(text)


def check_argument(text: str, *, paths: bool) -> None:
    """Refuse arguments that other parts of headstrip accept, but this command does not.

    Args:
        text: An argument that is not a pattern.
        paths: Whether the command accepts paths.

    Raises:
        UsageFailure: The argument is ``TAG=path``, or it is a path and the command takes names.
    """
    tag, equals, path = text.partition("=")
    if equals and os.sep not in tag and not os.path.exists(text):
        remedy = f"Pass the file alone, {path!r}" if path and paths else f"Pass {_EXAMPLE}"
        raise UsageFailure(
            f"{text!r} is neither a name nor a file. Only weights= of build_encoder takes "
            f"'TAG=path'. {remedy}."
        )
    looks_like_path = text.startswith((".", "/", "~")) or text.endswith(SUFFIXES)
    if looks_like_path and ":" not in text and not paths:
        raise UsageFailure(
            f"{text!r} is a path, and this command takes names. Pass {_EXAMPLE}. Only `verify` and "
            "`optimize` take paths."
        )


def named_weights(
    context: click.Context, names: Sequence[str], *, here: bool, partly: bool = False
) -> list[WeightsLocation]:
    """Return the sets of weights that names and patterns select, each file once.

    A name without a tag selects the backbone's default weights.

    Args:
        context: The command's context.
        names: Names ``[source:]arch[.weights]``, or patterns for them.
        here: Whether a pattern selects only weights whose file is on this machine.
        partly: Whether a pattern also selects weights with a partial download.

    Raises:
        UsageFailure: A pattern matches nothing.
        HeadstripError: No backbone has the name, or it has no weights in a file.
    """
    registry, caches = open_registry(context), Caches()
    found: dict[str, WeightsLocation] = {}
    for name in names:
        if is_pattern(name):
            chosen = [
                one
                for one in all_weights(registry, caches, name)
                if one.is_here or not here or (partly and caches.partials(one.entry))
            ]
            if not chosen:
                where = " on this machine" if here else ""
                raise UsageFailure(
                    f"No weights{where} match {name!r}. Run `headstrip weights list` to see the "
                    "weights on this machine, or `headstrip list` to see all backbones."
                )
        else:
            check_argument(name, paths=False)
            chosen = [_weights_of_name(registry, caches, name)]
        for one in chosen:
            found.setdefault(str(one.path), one)
    return list(found.values())


def weights_or_paths(context: click.Context, arguments: Sequence[str]) -> list[WeightsOrPath]:
    """Return the weights and files that names, patterns and paths select.

    For the path of a file that belongs to weights of a catalog, it returns these weights.
    """
    for argument in arguments:
        if not is_pattern(argument):
            check_argument(argument, paths=True)
    paths = [Path(os.path.expanduser(argument)) for argument in arguments if is_path(argument)]
    by_path: dict[str, WeightsLocation] = {}
    if paths:
        registry, caches = open_registry(context), Caches()
        for weights in all_weights(registry, caches):
            if weights.is_here:
                by_path.setdefault(str(weights.path.resolve()), weights)
    names = [argument for argument in arguments if not is_path(argument)]
    found: list[WeightsOrPath] = [*named_weights(context, names, here=True)]
    return found + [by_path.get(str(path.resolve()), path) for path in paths]


def all_weights(
    registry: Registry, caches: Caches, pattern: str | None = None
) -> Iterator[WeightsLocation]:
    """Yield the sets of weights in the catalogs that are files, in the order of the backbones."""
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
            if pattern is None or _matches(spec, entry, pattern):
                weights = caches.find(f"{short}.{entry.tag}", entry)
                if weights is not None:
                    yield weights


def _matches(spec: BackboneSpec, entry: WeightsEntry, pattern: str) -> bool:
    names = (spec.name, spec.qualified_name)
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(f"{name}.{entry.tag}", pattern) for name in names
    )


def _weights_of_name(registry: Registry, caches: Caches, name: str) -> WeightsLocation:
    with plugins_on_stderr():
        spec, parts = registry.resolve(name)
        entry = select_weights(registry, spec, parts, "DEFAULT").entry
    # Because a tag was passed, `select_weights` returns an entry or raises an error.
    assert entry is not None
    short = registry.short_name(spec)
    # Dots are part of a hub id, so a tag cannot be added to its name.
    weights = caches.find(short if "/" in spec.name else f"{short}.{entry.tag}", entry)
    if weights is None:
        raise UsageFailure(
            f"The weights {entry.tag!r} of {spec.qualified_name} are not a file: its plugin loads "
            "them itself. Use the tools of the plugin's library to manage them."
        )
    return weights
