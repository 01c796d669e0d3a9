"""The images of a source, sorted and numbered; the digest identifies a listing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from headstrip import HeadstripError
from headstrip.embed.listing import (
    FILE,
    Listing,
    is_listing,
    listing_file,
    read_listing,
    write_listing,
)
from headstrip.embed.sources import Item

ITEMS = [Item("b", 5, 7, "t.tar", 512), Item("a", 3, 9, "t.tar", 2048)]
LATEST = 2**63 - 1


def listed(folder: Path, items: list[Item], where: str = "t.tar") -> Listing:
    return write_listing(folder, {"kind": "tar", "where": where}, items)


def digest_of(folder: Path, items: list[Item], where: str = "t.tar") -> str:
    return listed(folder, items, where).digest


def test_the_order_of_images_does_not_change_the_digest(tmp_path: Path) -> None:
    assert digest_of(tmp_path, ITEMS) == digest_of(tmp_path, ITEMS[::-1])


@pytest.mark.parametrize("field", Item._fields)
def test_every_field_of_an_image_changes_the_digest(tmp_path: Path, field: str) -> None:
    value = getattr(ITEMS[0], field)
    other = value + 1 if isinstance(value, int) else f"{value}x"
    changed = [ITEMS[0]._replace(**{field: other}), ITEMS[1]]
    assert digest_of(tmp_path, changed) != digest_of(tmp_path, ITEMS)
    assert digest_of(tmp_path, ITEMS, "u.tar") != digest_of(tmp_path, ITEMS)


def test_text_moved_to_another_field_changes_the_digest(tmp_path: Path) -> None:
    one, other = Item("ab", 1, 1, "c"), Item("a", 1, 1, "bc")
    assert digest_of(tmp_path, [one]) != digest_of(tmp_path, [other])


def test_the_digest_is_the_same_as_in_earlier_versions(
    tmp_path: Path,
) -> None:
    assert digest_of(tmp_path, ITEMS) == (
        "d83741160fffd7f8595f268d946dc871bbea4f08393532b58f96129951f2671d"
    )


def test_a_listing_is_read_back_in_the_order_of_its_paths(tmp_path: Path) -> None:
    names = ["é.jpg", "a/b.jpg", "Z.jpg", "a.jpg", "写真.jpg", r"gr\xfcn.jpg"]
    items = [Item(name, n, -n, f"{n}.tar", n << 40, n) for n, name in enumerate(names)]
    written = listed(tmp_path, items)
    read = read_listing(tmp_path, written.digest)
    ordered = sorted(items, key=lambda item: item.path.encode())
    assert written.slice(0, 6) == read.slice(0, 6) == ordered
    assert len(read) == 6
    assert read.digest == written.digest


def test_a_slice_has_the_items_of_its_numbers(tmp_path: Path) -> None:
    items = [Item(f"{n:05d}", n, n, f"{n % 7}.tar", n) for n in range(20_000)]
    listing = listed(tmp_path, items[::-1])
    assert listing.slice(16_380, 16_390) == items[16_380:16_390]
    assert listing.slice(19_999, 30_000) == items[19_999:]
    assert listing.slice(5, 5) == []


def test_a_listing_is_stored_in_a_folder_named_by_its_digest(tmp_path: Path) -> None:
    digest = digest_of(tmp_path, ITEMS)
    assert listing_file(tmp_path, digest) == tmp_path / digest[:16] / FILE
    assert [path.name for path in (tmp_path / digest[:16]).iterdir()] == [FILE]


def test_two_images_with_one_path_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="Two images of the source have the path 'a'"):
        listed(tmp_path, [*ITEMS, Item("a", 1, 1)])
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_images_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"There is no image in 't\.tar'"):
        listed(tmp_path, [])


def test_has_clipped_times_finds_clipped_times_in_any_range(tmp_path: Path) -> None:
    times = [5, LATEST, 0, 7, 1 - 2**63]
    listing = listed(tmp_path, [Item(str(n), 1, time) for n, time in enumerate(times)])
    assert listing.has_clipped_times()
    assert [listing.has_clipped_times(n, n + 1) for n in range(5)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert listing.has_clipped_times(2)
    assert not listing.has_clipped_times(2, 4)
    assert not listing.has_clipped_times(2, 2)


def test_reading_a_damaged_listing_is_an_error(tmp_path: Path) -> None:
    digest = digest_of(tmp_path, ITEMS)
    file = listing_file(tmp_path, digest)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(pa.ArrowInvalid):
        read_listing(tmp_path, digest)
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        read_listing(tmp_path, digest)


def test_is_listing_recognises_only_listings(tmp_path: Path) -> None:
    file = listing_file(tmp_path, digest_of(tmp_path, ITEMS))
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "text").write_text("ARROW")
    assert is_listing(file)
    others = ("link", "text", "none", ".")
    assert not any(is_listing(tmp_path / name) for name in others)
