"""Write the errors for a name that no installed source has."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from headstrip.families import SOURCE
from headstrip.plugins.loader import FIRST_PARTY, PluginRecord
from headstrip.spec import CONFIG, SAVED, Name

BARE_SOURCES = (SOURCE, "timm")
"""The sources whose names need no prefix, in the order in which the registry searches them."""

_MAX_SHOWN = 3


def unknown_backbone(
    name: str,
    parts: Name,
    listed: Mapping[str, Collection[str]],
    unusable: Mapping[str, str],
) -> str:
    """Return the error for a name that no source has, with similar names.

    Args:
        name: The name that the user asked for.
        parts: Its parts.
        listed: Names of backbones by source.
        unusable: The installed plugins that cannot be used, with the reasons.
    """
    source, arch = parts.source, parts.backbone
    if source in (None, "hf") and os.path.isfile(os.path.join(arch, CONFIG)):
        return (
            f"There is no backbone {name!r:.100}. For the model of transformers in the folder of "
            f"that name, write 'hf:./{arch:.100}'."
        )
    if source is None:
        if os.path.isfile(os.path.join(name, SAVED)):
            return (
                f"There is no backbone {name!r:.100}. For the folder of that name, write "
                f"'{name:.100}/'."
            )
        elsewhere = [other for other, names in listed.items() if arch in names]
        if elsewhere:
            choices = joined(f"{other}:{arch}" for other in elsewhere[:_MAX_SHOWN])
            return f"The name {name!r} needs its source. Write {choices}."
        if "/" in arch:
            return f"The name {name!r} needs its source. {_hub_hint(arch, listed, unusable)}"
    similar = _similar(parts, listed)
    hint = f"Did you mean {joined(similar)}?" if similar else "`headstrip list` prints all names."
    if source is None and "timm" not in listed:
        if "timm" in unusable:
            hint += f" timm's names are missing: {unusable['timm'].rstrip('.')}."
        else:
            hint += " Install timm's architectures with `pip install headstrip-timm`."
    return f"There is no backbone {name!r:.100}. {hint}"


def unknown_source(name: str, parts: Name, listed: Mapping[str, Collection[str]]) -> str:
    """Return the error for a source that is not installed, with backbones of similar names."""
    home = FIRST_PARTY.get(parts.source or "")
    install = f"`pip install {home}` installs it. " if home else ""
    elsewhere = [source for source, names in listed.items() if parts.backbone in names]
    from difflib import get_close_matches

    similar = elsewhere or get_close_matches(parts.source or "", listed, n=_MAX_SHOWN)
    hint = (
        f"Did you mean {joined(f'{source}:{parts.backbone}' for source in similar[:_MAX_SHOWN])}?"
        if similar
        else f"Installed sources: {', '.join(listed)}."
    )
    return f"There is no source {parts.source!r} for {name!r}. {install}{hint}"


def nothing_listed(source: str, records: Iterable[PluginRecord]) -> str | None:
    """Return why a source lists no backbone, None if headstrip knows no reason."""
    record = next((record for record in records if record.name == source), None)
    if record is None:
        home = FIRST_PARTY.get(source)
        return f"`pip install {home}` installs {source!r}" if home else None
    if record.error:
        state = "cannot be used" if record.status == "failed" else f"is {record.status}"
        return f"{source!r} {state}: {record.error.rstrip('.')}"
    if record.rows or record.origin in {"built-in", "registered"}:
        return None
    return (
        f"the plugin {source!r} ships no catalog.tsv; `headstrip catalog write {source}` writes it"
    )


def joined(names: Iterable[str]) -> str:
    """Join names for a sentence: ``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _hub_hint(arch: str, listed: Mapping[str, Collection[str]], unusable: Mapping[str, str]) -> str:
    """Return how to write a name with a slash."""
    hint = f"A name with a slash is a repository or a folder: write hf:{arch}."
    if "hf" in unusable:
        return f"{hint} The plugin 'hf' cannot be used: {unusable['hf'].rstrip('.')}."
    return (
        hint if "hf" in listed else f"{hint} Install 'hf' with `pip install {FIRST_PARTY['hf']}`."
    )


def _similar(parts: Name, listed: Mapping[str, Collection[str]]) -> list[str]:
    """Find at most 3 names that the user may have meant."""
    sources = [parts.source] if parts.source else BARE_SOURCES
    prefix = f"{parts.source}:" if parts.source else ""
    names = list(dict.fromkeys(name for source in sources for name in listed.get(source, ())))
    wanted = parts.arch.lower()
    from difflib import get_close_matches

    found = get_close_matches(wanted, names, n=_MAX_SHOWN, cutoff=0.6)
    found += [name for name in names if name.startswith(wanted) and name not in found]
    return [prefix + name for name in found[:_MAX_SHOWN]]
