"""What to say about a name that is nobody's."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from headstrip.families import SOURCE
from headstrip.spec import Name

BARE_SOURCES = (SOURCE, "timm")
"""The sources whose names need no prefix, in the order in which they are asked."""

_MOST = 3


def unknown_backbone(
    name: str, parts: Name, listed: Mapping[str, Collection[str]], timm: str | None
) -> str:
    """Say that no source has a name, and which it may have been.

    Args:
        name: The name as it was asked for.
        parts: Its parts.
        listed: Names of backbones by source.
        timm: Why timm's plugin cannot be used, None where that is not so.
    """
    source, arch = parts.source, parts.backbone
    if source is None:
        elsewhere = [other for other, names in listed.items() if arch in names]
        if elsewhere:
            choices = joined(f"{other}:{arch}" for other in elsewhere[:_MOST])
            return f"The bare name {name!r} is nobody's. Write {choices}."
    near = _near(parts, listed)
    hint = f"Did you mean {joined(near)}?" if near else "`headstrip list` prints all names."
    if source is None and "timm" not in listed:
        hint += f" timm's names are missing: {timm.rstrip('.')}." if timm else (
            " timm's architectures come with `pip install headstrip-timm`."
        )  # fmt: skip
    return f"There is no backbone {name!r}. {hint}"


def unknown_source(name: str, parts: Name, listed: Mapping[str, Collection[str]]) -> str:
    """Say that there is no source of that name, and which backbone may have been meant."""
    known = "`pip install headstrip-timm` brings it. " if parts.source == "timm" else ""
    elsewhere = [source for source, names in listed.items() if parts.backbone in names]
    near = elsewhere or difflib.get_close_matches(parts.source or "", listed, n=_MOST)
    hint = (
        f"Did you mean {joined(f'{source}:{parts.backbone}' for source in near[:_MOST])}?"
        if near
        else f"Installed sources: {', '.join(listed)}."
    )
    return f"There is no source {parts.source!r} for {name!r}. {known}{hint}"


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
