"""headstrip knows the expected hash of a weights file, and names a remedy for a wrong one."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from headstrip import WeightsError
from headstrip.weights.records import add_facts, cache_home, recorded, remember
from headstrip.weights.trust import (
    FIRST_USE,
    Expectation,
    compare,
    expectation,
    hash_in_name,
    hash_of,
    hub_blob,
    identify,
    origin_of,
)

LONG_AGO = 1_600_000_000
FOUND, OTHER = hashlib.sha256(b"the weights").hexdigest(), "f" * 64
OWN = "It is your own file: copy it again from its source, or save it again."
REPAIR = "Run `headstrip weights repair resnet50.V1`, which downloads the file again."
REPAIR_A_NAME = (
    "Run `headstrip weights repair NAME`, which downloads the file again; `headstrip weights list` "
    "prints the names."
)
CONVERT = "It is an optimized copy: remove it, and run `headstrip weights optimize` again."


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """headstrip's cache folder, which does not exist yet."""
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "headstrip"))
    return tmp_path / "headstrip"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "net.pth")


def written(path: Path, data: bytes = b"the weights", age: float = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (age, age))
    return path


def identified(path: Path, **options: Any) -> Any:
    with open(path, "rb") as file:
        return identify(path, file, **options)


def refusal(path: Path, name: str = "") -> str:
    with pytest.raises(WeightsError) as caught:
        compare(path, FOUND, Expectation("abcd", "the catalog"), name)
    prefix = f"The file {path} has the sha256 {FOUND}, but the catalog has abcd. "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


@pytest.mark.parametrize(
    ("origin", "name", "remedy"),
    [
        (None, "", OWN),
        (None, "resnet50.V1", OWN),
        ("own", "", OWN),
        ("optimized", "resnet50.V1", CONVERT),
        ("download", "resnet50.V1", REPAIR),
        ("download", "", REPAIR_A_NAME),
        ("hub", "resnet50.V1", REPAIR),
    ],
)
def test_the_remedy_for_a_wrong_hash_depends_on_the_origin_of_the_file(
    path: Path, origin: str | None, name: str, remedy: str
) -> None:
    if origin:
        remember(path, path.stat(), FOUND, origin=origin)
    assert refusal(path, name) == remedy


def test_the_remedy_for_a_cached_file_is_repair_even_without_a_record(
    hub: Path, tmp_path: Path
) -> None:
    assert refusal(written(hub / "net.pth"), "resnet50.V1") == REPAIR
    assert refusal(written(tmp_path / "blobs" / OTHER), "resnet50.V1") == REPAIR


@pytest.mark.parametrize("start", ["", FOUND[:1], FOUND[:8], FOUND])
def test_a_hash_that_starts_with_the_expected_digits_is_accepted(path: Path, start: str) -> None:
    compare(path, FOUND, Expectation(start, "the catalog"))


@pytest.mark.parametrize(
    ("origin", "name", "remedy"),
    [("own", "", OWN), ("download", "resnet50.V1", REPAIR), ("optimized", "", CONVERT)],
)
def test_the_error_for_a_silent_change_names_both_hashes(
    path: Path, origin: str, name: str, remedy: str
) -> None:
    remember(path, path.stat(), OTHER, origin=origin)
    assert identified(path).sha256 == OTHER
    with pytest.raises(WeightsError) as caught:
        identified(path, always=True, name=name)
    assert str(caught.value) == (
        f"The bytes of the file {path} changed, but its size and times did not: the file has the "
        f"sha256 {FOUND}, but its record has {OTHER}. The disk is failing, or a program reset the "
        f"times. {remedy}"
    )


def test_identify_returns_the_recorded_hash_and_facts(path: Path) -> None:
    first = identified(path)
    assert (first.sha256, first.was_hashed, first.facts) == (FOUND, True, {})
    assert first.stat.st_mtime == LONG_AGO
    remember(path, first.stat, first.sha256, origin="own")
    add_facts(path, first.stat, filled=True)
    again = identified(path)
    assert (again.sha256, again.was_hashed, again.facts) == (FOUND, False, {"filled": True})
    assert again.stat.st_mtime == LONG_AGO
    read = identified(path, always=True)
    assert (read.sha256, read.was_hashed, read.facts) == (FOUND, True, {"filled": True})


def test_facts_about_identical_bytes_survive_a_new_modification_time(path: Path) -> None:
    remember(path, path.stat(), FOUND, origin="own")
    add_facts(path, path.stat(), filled=True)
    written(path, age=LONG_AGO + 9)
    moved = identified(path)
    assert (moved.was_hashed, moved.facts) == (True, {"filled": True})
    written(path, b"other weights")
    other = identified(path)
    assert (other.sha256, other.was_hashed, other.facts) == (
        hashlib.sha256(b"other weights").hexdigest(),
        True,
        {},
    )


@pytest.mark.parametrize(
    ("age", "waits"),
    [(0.0, True), (0.01, True), (0.021, False), (1.0, False), (-5.0, False)],
)
def test_identify_waits_briefly_if_the_file_was_just_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, age: float, waits: bool
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        written(path, age=LONG_AGO + 60)

    monkeypatch.setattr(time, "time", lambda: LONG_AGO + age)
    monkeypatch.setattr(time, "sleep", sleep)
    seen = identified(path)
    assert waited == ([0.02] if waits else [])
    assert seen.stat.st_mtime == LONG_AGO + (60 if waits else 0)


def test_a_large_file_is_hashed_completely_from_the_first_byte(path: Path) -> None:
    data = os.urandom(1000) * 3000
    written(path, data)
    with open(path, "rb") as file:
        file.seek(7)
        assert hash_of(file) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("net-12345678.pth", "12345678"),
        ("net-1234567.pth", ""),
        ("net-19900101.pth", ""),
        ("net-19891231.pth", "19891231"),
        ("net-20991231.pth", ""),
        ("net-21000101.pth", "21000101"),
        ("net-20211301.pth", "20211301"),
        ("net-20210230.pth", "20210230"),
        ("net-20210132.pth", "20210132"),
        ("net-20211108.pth", ""),
        ("net-202111081.pth", "202111081"),
        ("net-2021110.pth", ""),
        ("net-abcdef01.pth.tar", "abcdef01"),
        ("net-abcdef01.a-abcdef02.pth", ""),
        ("net-abcdef01.a-b.pth", ""),
        ("net-abcdef01", ""),
        ("net-abcdef0g.pth", ""),
    ],
)
def test_a_hash_in_a_name_has_at_least_eight_digits_and_is_not_a_date(
    name: str, found: str
) -> None:
    assert hash_in_name(name) == found


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://example.org/net-0676ba61.pth", "0676ba61"),
        ("https://example.org/net-0676ba61.pth?download=1", "0676ba61"),
        ("https://example.org/folder%2Dx/net%2D0676ba61.pth", "0676ba61"),
        ("https://example.org/net-0676ba61.pth/other.pth", ""),
        ("https://example.org/other.pth?net-0676ba61.pth", ""),
        ("https://example.org", ""),
        ("", ""),
    ],
)
def test_the_file_name_in_a_url_is_the_part_after_the_last_slash(
    path: Path, url: str, named: str
) -> None:
    expected = Expectation(named, "the file name") if named else Expectation()
    assert expectation(path, url=url) == expected


def test_the_expected_hash_comes_from_the_first_source_that_states_one(tmp_path: Path) -> None:
    path = written(tmp_path / "blobs" / OTHER)
    remember(path, path.stat(), FOUND, origin="hub")
    url = "https://example.org/net-0676ba61.pth"
    assert expectation(path, "ABCD", url=url) == Expectation("abcd", "the catalog")
    assert expectation(path, url=url) == Expectation("0676ba61", "the file name")
    assert expectation(path, url="https://example.org/net.pth") == Expectation(OTHER, "the hub")
    assert expectation(path, url=None) == Expectation(OTHER, "the hub")
    path = path.rename(tmp_path / "net.pth")
    remember(path, path.stat(), FOUND, origin="hub")
    assert expectation(path, url=None) == Expectation(FOUND, FIRST_USE)


@pytest.mark.parametrize("origin", ["own", "package"])
def test_a_file_that_users_may_edit_has_no_expected_hash(path: Path, origin: str) -> None:
    remember(path, path.stat(), FOUND, origin=origin)
    assert expectation(path, url=None) == Expectation("", "")


def test_an_optimized_copy_must_keep_the_hash_of_its_first_use() -> None:
    path = written(cache_home() / "optimized" / f"{OTHER}.safetensors")
    remember(path, path.stat(), FOUND, origin="optimized")
    assert recorded(path) is not None
    assert expectation(path, url=None) == Expectation(FOUND, FIRST_USE)


def test_a_hub_blob_is_found_through_links(tmp_path: Path) -> None:
    blob = written(tmp_path / "blobs" / OTHER)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model").symlink_to(Path("..", "blobs", OTHER))
    (tmp_path / "twice").symlink_to(tmp_path / "snapshot" / "model")
    for name in (blob, tmp_path / "snapshot" / "model", tmp_path / "twice"):
        assert hub_blob(name) == blob
    for name in ("net.pth", "blobs/0123", f"other/{OTHER}", f"blobs/{OTHER}0"):
        assert hub_blob(written(tmp_path / name)) is None


def test_a_hub_blob_that_is_itself_a_link_keeps_its_name(tmp_path: Path) -> None:
    written(tmp_path / "elsewhere" / "data")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / OTHER).symlink_to(tmp_path / "elsewhere" / "data")
    assert hub_blob(tmp_path / "blobs" / OTHER) == tmp_path / "blobs" / OTHER


def test_a_relative_path_is_resolved_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = written(tmp_path / "blobs" / OTHER)
    monkeypatch.chdir(tmp_path / "blobs")
    assert hub_blob(Path(OTHER)) == blob


def test_circular_links_lead_to_no_blob(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert hub_blob(tmp_path / "a") is None


@pytest.mark.parametrize(("links", "is_found"), [(39, True), (40, False)])
def test_at_most_forty_links_are_followed(tmp_path: Path, links: int, is_found: bool) -> None:
    blob = written(tmp_path / "blobs" / OTHER)
    last = blob
    for number in range(links):
        (tmp_path / str(number)).symlink_to(last)
        last = tmp_path / str(number)
    assert hub_blob(last) == (blob if is_found else None)


def test_the_folder_of_a_file_decides_its_origin(hub: Path, path: Path, tmp_path: Path) -> None:
    assert origin_of(tmp_path / "hub" / "blobs" / FOUND) == "hub"
    assert origin_of(hub / "net.pth") == "download"
    assert origin_of(path) == "own"


def test_the_repair_command_has_a_placeholder_if_the_weights_have_no_name(hub: Path) -> None:
    path = written(hub / "net.pth")
    with pytest.raises(WeightsError, match=re.escape(REPAIR_A_NAME)):
        compare(path, FOUND, Expectation("abcd", "the catalog"))
    remember(path, path.stat(), OTHER, origin="download")
    with pytest.raises(WeightsError, match=re.escape(REPAIR_A_NAME)):
        identified(path, always=True)
