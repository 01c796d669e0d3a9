"""Choose the backbones to compare: by name, from a curated list, and by filters."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from headstrip.backbones import get_backbone
from headstrip.errors import HeadstripError, OptionError

_SHOWN = 8
PRESETS = ("small", "balanced", "large")


@dataclass(frozen=True, slots=True)
class PresetBackbone:
    """A backbone of a curated list.

    Attributes:
        preset: The list.
        name: Name of the backbone.
        reason: Why it is in the list.
    """

    preset: str
    name: str
    reason: str


@cache
def preset_backbones() -> tuple[PresetBackbone, ...]:
    """Return the backbones of all curated lists."""
    text = resources.files(__package__).joinpath("presets.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return tuple(PresetBackbone(row["preset"], row["name"], row["reason"]) for row in rows)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backbone that may be compared.

    Attributes:
        name: Its name, as the caller wrote it.
        left_out: Why it is not compared, or None.
    """

    name: str
    left_out: str | None = None


def candidates_of(
    names: Sequence[str],
    preset: str | None,
    max_params: float | None,
    licenses: Sequence[str],
) -> tuple[Candidate, ...]:
    """Return the chosen backbones, including those that a filter leaves out, with the reason.

    Args:
        names: Names of backbones.
        preset: ``small``, ``balanced`` or ``large``: a curated list to add to them.
        max_params: Largest number of parameters of a backbone, including the head.
        licenses: Licences that its default weights may have, in upper or lower case; empty for any
            licence.

    Raises:
        OptionError: There is no such list, no backbone is named, or the filters leave out all.
    """
    if preset not in (None, *PRESETS):
        raise OptionError(
            f"There is no preset {preset!r:.60}. Pass one of {', '.join(map(repr, PRESETS))}."
        )
    is_number = isinstance(max_params, (int, float)) and not isinstance(max_params, bool)
    if max_params is not None and not (is_number and max_params > 0):
        raise OptionError(
            f"max_params must be a number above 0, such as 30e6, got {max_params!r:.60}."
        )
    listed = [one.name for one in preset_backbones() if one.preset == preset]
    chosen = list(dict.fromkeys([*names, *listed]))
    if not chosen:
        raise OptionError(
            "There is nothing to compare. Name backbones with -b NAME (backbones=), or choose a "
            "list with --preset small (preset=)."
        )
    found = tuple(Candidate(name, _reason(name, max_params, licenses)) for name in chosen)
    if all(one.left_out for one in found):
        reasons = "; ".join(f"{one.name}: {one.left_out}" for one in found[:_SHOWN])
        more = f" And {len(found) - _SHOWN} more." if len(found) > _SHOWN else ""
        raise OptionError(
            f"--max-params and --license (max_params=, licenses=) leave out every backbone. "
            f"{reasons}{more} Allow more, or name other backbones."
        )
    return found


def _reason(name: str, max_params: float | None, licenses: Sequence[str]) -> str | None:
    if max_params is None and not licenses:
        return None
    try:
        found = get_backbone(name)
    except HeadstripError:
        # The build will fail and give the reason.
        return None
    if max_params is not None and found.spec.params > max_params:
        return f"It has {found.spec.params:,} parameters."
    stated = found.weights[0].license if found.weights else None
    allowed = {one.strip().lower() for one in licenses}
    if allowed and (stated or "").lower() not in allowed:
        return f"Its library states {f'the licence {stated}' if stated else 'no licence'}."
    return None
