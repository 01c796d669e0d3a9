"""What to say about a name that is nobody's."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from headstrip.families import SOURCE
from headstrip.plugins.loader import FIRST_PARTY, PluginRecord
from headstrip.spec import Name

BARE_SOURCES = (SOURCE, "timm")
"""The sources whose names need no prefix, in the order in which they are asked."""

_MOST = 3


def unknown_backbone(
    name: str,
    parts: Name,
    listed: Mapping[str, Collection[str]],
    unusable: Mapping[str, str],
) -> str:
    """Say that no source has a name, and which it may have been.

    Args:
        name: The name as it was asked for.
        parts: Its parts.
        listed: Names of backbones by source.
        unusable: Why a source's plugin that is installed cannot be used.
    """
    source, arch = parts.source, parts.backbone
    if source is None:
        elsewhere = [other for other, names in listed.items() if arch in names]
        if elsewhere:
            choices = joined(f"{other}:{arch}" for other in elsewhere[:_MOST])
            return f"The bare name {name!r} is nobody's. Write {choices}."
        if "/" in arch:
            return f"The bare name {name!r} is nobody's. {_of_the_hub(arch, listed, unusable)}"
    near = _near(parts, listed)
    hint = f"Did you mean {joined(near)}?" if near else "`headstrip list` prints all names."
    if source is None and "timm" not in listed:
        hint += f" timm's names are missing: {unusable['timm'].rstrip('.')}." if (
            "timm" in unusable
        ) else " timm's architectures come with `pip install headstrip-timm`."  # fmt: skip
    return f"There is no backbone {name!r}. {hint}"


def unknown_source(name: str, parts: Name, listed: Mapping[str, Collection[str]]) -> str:
    """Say that there is no source of that name, and which backbone may have been meant."""
    home = FIRST_PARTY.get(parts.source or "")
    known = f"`pip install {home}` brings it. " if home else ""
    elsewhere = [source for source, names in listed.items() if parts.backbone in names]
    near = elsewhere or difflib.get_close_matches(parts.source or "", listed, n=_MOST)
    hint = (
        f"Did you mean {joined(f'{source}:{parts.backbone}' for source in near[:_MOST])}?"
        if near
        else f"Installed sources: {', '.join(listed)}."
    )
    return f"There is no source {parts.source!r} for {name!r}. {known}{hint}"


def nothing_listed(source: str, records: Iterable[PluginRecord]) -> str | None:
    """Say why a source lists no backbone, None where nothing is known of it."""
    record = next((record for record in records if record.name == source), None)
    if record is None:
        return (
            f"`pip install {FIRST_PARTY[source]}` brings {source!r}"
            if source in FIRST_PARTY
            else None
        )
    if record.error:
        return f"{source!r} is {record.status}: {record.error.rstrip('.')}"
    if record.rows or record.origin in {"built-in", "registered"}:
        return None
    return (
        f"the plugin {source!r} ships no catalog.tsv; `headstrip catalog write {source}` writes one"
    )


def _of_the_hub(
    arch: str, listed: Mapping[str, Collection[str]], unusable: Mapping[str, str]
) -> str:
    """Say how a name with a slash is written."""
    hint = f"A name with a slash is that of a repository or a folder: write hf:{arch}."
    if "hf" in unusable:
        return f"{hint} The plugin 'hf' cannot be used: {unusable['hf'].rstrip('.')}."
    return hint if "hf" in listed else f"{hint} `pip install {FIRST_PARTY['hf']}` brings 'hf'."


def joined(names: Iterable[str]) -> str:
    """Join names as a sentence has them: ``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _near(parts: Name, listed: Mapping[str, Collection[str]]) -> list[str]:
    """Find at most 3 names that one may have meant."""
    sources = [parts.source] if parts.source else BARE_SOURCES
    prefix = f"{parts.source}:" if parts.source else ""
    names = list(dict.fromkeys(name for source in sources for name in listed.get(source, ())))
    wanted = parts.arch.lower()
    near = difflib.get_close_matches(wanted, names, n=_MOST, cutoff=0.6)
    near += [name for name in names if name.startswith(wanted) and name not in near]
    return [prefix + name for name in near[:_MOST]]
