"""The images of a source, sorted and numbered; the digest tells one listing from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstrip.embed.listing import write_listing
from headstrip.embed.sources import Item

ITEMS = [Item("b", 5, 7, "t.tar", 512), Item("a", 3, 9, "t.tar", 2048)]


def digest_of(tmp_path: Path, items: list[Item], where: str = "t.tar") -> str:
    listing = write_listing(tmp_path, {"kind": "tar", "where": where}, items)
    digest = listing.digest
    listing.close()
    return digest


def test_the_order_in_which_images_are_listed_is_of_no_matter(tmp_path: Path) -> None:
    assert digest_of(tmp_path, ITEMS) == digest_of(tmp_path, ITEMS[::-1])


@pytest.mark.parametrize("field", Item._fields)
def test_every_field_of_every_image_counts(tmp_path: Path, field: str) -> None:
    value = getattr(ITEMS[0], field)
    other = value + 1 if isinstance(value, int) else f"{value}x"
    changed = [ITEMS[0]._replace(**{field: other}), ITEMS[1]]
    assert digest_of(tmp_path, changed) != digest_of(tmp_path, ITEMS)
    assert digest_of(tmp_path, ITEMS, "u.tar") != digest_of(tmp_path, ITEMS)
