"""headstrip records the hash of a file, and hashes the file again only if it changed."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.children import DIED, Children
from tests.failing import failing
from tests.weights.remembering import hash_and_record

from headstrip import WeightsError
from headstrip.registry.registry import get_registry
from headstrip.weights.records import add_facts, cache_home, forget, recorded, remember
from headstrip.weights.trust import (
    FIRST_USE,
    Expectation,
    compare,
    expectation,
    hash_in_name,
    hash_of,
    identify,
)

HASH_AND_RECORD = "tests.weights.remembering:hash_and_record"
LONG_AGO = 1_600_000_000 * 10**9
bytes_of_a_file = st.binary(min_size=1, max_size=200)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """headstrip's cache folder, which does not exist yet."""
    folder = tmp_path / "headstrip"
    monkeypatch.setenv("HEADSTRIP_CACHE", str(folder))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "net.pth", b"the weights")


def write(path: Path, data: bytes, mtime_ns: int = LONG_AGO) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seen(path: Path, *, always: bool = False) -> tuple[str, bool]:
    """Return the sha256 of a file, and whether headstrip hashed the file to get it."""
    with open(path, "rb") as file:
        identified = identify(path, file, always=always)
    return identified.sha256, identified.was_hashed


def change_silently(path: Path, data: bytes) -> None:
    """Change bytes in place, and restore the file times."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@given(data=bytes_of_a_file)
@same_folder
def test_a_recorded_file_is_not_hashed_again(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "net.pth", data)
    forget(path)
    assert seen(path) == (sha256(data), True)
    hash_and_record(path)
    assert seen(path) == (sha256(data), False)
    assert seen(path, always=True) == (sha256(data), True)


@given(before=bytes_of_a_file, after=bytes_of_a_file, moved=st.integers(-(10**18), 10**18))
@same_folder
def test_a_file_with_a_new_time_or_size_is_hashed_again(
    tmp_path: Path, before: bytes, after: bytes, moved: int
) -> None:
    assume(moved or len(before) != len(after))
    path = write(tmp_path / "net.pth", before)
    forget(path)
    hash_and_record(path)
    write(path, after, LONG_AGO + moved)
    assert seen(path) == (sha256(after), True)


@given(before=bytes_of_a_file, flipped=st.integers(1, 255))
@same_folder
def test_another_file_with_the_same_time_and_size_is_hashed_again(
    tmp_path: Path, before: bytes, flipped: int
) -> None:
    path = write(tmp_path / "net.pth", before)
    forget(path)
    hash_and_record(path)
    after = bytes([before[0] ^ flipped]) + before[1:]
    os.replace(write(tmp_path / "other.pth", after), path)
    assert seen(path) == (sha256(after), True)


@given(before=bytes_of_a_file, place=st.integers(0), flipped=st.integers(1, 255))
@same_folder
def test_a_silently_changed_byte_is_found_when_the_file_is_hashed(
    tmp_path: Path, before: bytes, place: int, flipped: int
) -> None:
    path = write(tmp_path / "net.pth", before)
    forget(path)
    hash_and_record(path)
    after = bytearray(before)
    after[place % len(after)] ^= flipped
    change_silently(path, bytes(after))
    assert seen(path) == (sha256(before), False)
    with pytest.raises(WeightsError, match="its size and times did not") as raised:
        seen(path, always=True)
    assert {str(path), sha256(after), sha256(before)} <= {
        word.rstrip(",.") for word in str(raised.value).split()
    }


def test_a_file_that_is_rewritten_at_once_is_hashed_again(path: Path) -> None:
    path.write_bytes(b"first")
    hash_and_record(path)
    path.write_bytes(b"later")
    assert seen(path) == (sha256(b"later"), True)


def test_identify_describes_the_open_file_and_not_its_replacement(
    path: Path, tmp_path: Path
) -> None:
    hash_and_record(path)
    with open(path, "rb") as file:
        os.replace(write(tmp_path / "other.pth", b"THE WEIGHTS"), path)
        assert identify(path, file).sha256 == sha256(b"the weights")


def test_all_paths_of_a_file_share_one_record(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    hash_and_record(tmp_path / "link.pth")
    for name in (path, tmp_path / "link.pth", tmp_path / "folder" / "link.pth"):
        assert seen(name) == (sha256(b"the weights"), False)
    forget(tmp_path / "link.pth")
    assert recorded(path) is None


def test_a_record_keeps_what_was_found_after_the_file_changes(path: Path) -> None:
    hash_and_record(path)
    write(path, b"more of the weights")
    record = recorded(path)
    assert record is not None
    assert (record.path, record.sha256) == (os.path.realpath(path), sha256(b"the weights"))
    assert (record.size, record.origin) == (len(b"the weights"), "download")
    assert not record.describes(path.stat())


def test_facts_are_kept_only_for_identical_bytes(path: Path) -> None:
    hash_and_record(path)
    add_facts(path, path.stat(), crc=False)
    hash_and_record(write(path, b"the weights", LONG_AGO + 1))
    kept = recorded(path)
    assert kept is not None
    assert kept.facts == {"filled": True, "crc": False}
    write(path, b"THE WEIGHTS")
    add_facts(path, path.stat(), crc=True)
    remember(path, path.stat(), sha256(b"THE WEIGHTS"), origin="download")
    new = recorded(path)
    assert new is not None
    assert new.facts == {}


@given(damage=st.binary(max_size=50))
@same_folder
def test_a_file_with_a_damaged_record_is_hashed_again(
    path: Path, home: Path, damage: bytes
) -> None:
    hash_and_record(path)
    (record,) = (home / "files").iterdir()
    record.write_bytes(damage)
    assert recorded(path) is None
    assert seen(path) == (sha256(b"the weights"), True)


other_values = st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=1)


@given(
    key=st.sampled_from(["path", "size", "mtime_ns", "inode", "device", "sha256", "facts"]),
    value=other_values,
)
@same_folder
def test_a_record_with_an_invalid_value_is_ignored(
    path: Path, home: Path, key: str, value: object
) -> None:
    hash_and_record(path)
    (record,) = (home / "files").iterdir()
    record.write_text(json.dumps({**json.loads(record.read_text()), key: value}))
    assert seen(path) == (sha256(b"the weights"), True)


def test_a_record_under_the_name_of_another_file_is_ignored(path: Path, home: Path) -> None:
    hash_and_record(path)
    (record,) = (home / "files").iterdir()
    forged = json.loads(record.read_text())
    other = write(path.with_name("other.pth"), b"THE WEIGHTS")
    hash_and_record(other)
    (name,) = {*(home / "files").iterdir()} - {record}
    name.write_text(json.dumps(forged))
    assert recorded(other) is None


def test_a_file_is_hashed_each_time_if_records_cannot_be_written(path: Path, home: Path) -> None:
    home.write_text("a file where the folder should be")
    assert hash_and_record(path) == hash_and_record(path) == sha256(b"the weights")
    assert seen(path) == (sha256(b"the weights"), True)


def test_the_hash_is_right_whichever_write_of_a_record_fails(path: Path) -> None:
    with open(path, "rb") as file:
        for at in itertools.count():
            forget(path)
            with failing(at=at, error=errno.ENOSPC) as calls:
                found = identify(path, file)
                remember(path, found.stat, found.sha256, origin="download")
                add_facts(path, found.stat, filled=True)
            assert found.sha256 == sha256(b"the weights")
            assert seen(path)[0] == sha256(b"the weights")
            if not calls.hit:
                break
    assert at > 3
    assert not seen(path)[1]


@pytest.mark.parametrize("known", [True, False], ids=["over another record", "first record"])
def test_the_hash_is_right_after_a_process_died_while_writing_a_record(
    path: Path, known: bool
) -> None:
    with Children() as children:
        for at in itertools.count():
            forget(path)
            if known:
                hash_and_record(write(path, b"THE WEIGHTS"))
            write(path, b"the weights", LONG_AGO + 1)
            ended = children.run(HASH_AND_RECORD, path, at=at)
            assert seen(path)[0] == sha256(b"the weights")
            if ended.code != DIED:
                break
    assert at > 3
    assert ended.value == sha256(b"the weights")


def test_eight_processes_write_one_valid_record(path: Path, home: Path) -> None:
    with Children() as children:
        ended = children.run_many(HASH_AND_RECORD, path, processes=8)
    assert {one.value for one in ended} == {sha256(b"the weights")}
    assert seen(path) == (sha256(b"the weights"), False)
    assert len([*(home / "files").iterdir()]) == 1


def test_threads_can_read_a_record_while_others_write_it(path: Path) -> None:
    hash_and_record(path)

    def work(number: int) -> tuple[str, bool]:
        return (hash_and_record(path), False) if number % 2 else seen(path)

    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(work, range(200))} == {(sha256(b"the weights"), False)}


@given(data=st.binary(max_size=3000), chunk=st.integers(1, 1000))
def test_a_hash_covers_the_whole_file_from_the_first_byte(data: bytes, chunk: int) -> None:
    file = io.BytesIO(data)
    file.seek(chunk)
    assert hash_of(file) == sha256(data)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("mnasnet0.5_top1_67.823-3ffadce67e.pth", "3ffadce67e"),
        ("seresnext26_32x4d-65ebdb501.pth", "65ebdb501"),
        (f"net-{sha256(b'')}.pth.tar", sha256(b"")),
        ("vgg13-19584684.pth", "19584684"),
        ("swin-20211108.pth", ""),
        ("net-19991231.pth", ""),
        ("IN1K-vit.h.14-300e.pth.tar", ""),
        ("net-0676ba61-ema.pth", ""),
        ("net-0676BA61.pth", ""),
        ("net_0676ba61.pth", ""),
        ("0676ba61.pth", ""),
        ("net-0676ba61", ""),
        (f"net-{sha256(b'')}0.pth", ""),
        ("", ""),
    ],
)
def test_a_hash_in_a_name_has_at_least_eight_hex_digits_and_is_not_a_date(
    name: str, found: str
) -> None:
    assert hash_in_name(name) == found


@pytest.mark.parametrize(("source", "least"), [("torchvision", 125), ("timm", 400)])
def test_the_names_of_published_files_have_hashes(source: str, least: int) -> None:
    registry = get_registry()
    urls = {
        (url, entry.sha256)
        for spec in registry.specs()
        if spec.source == source
        for entry in registry.listed_weights(spec)
        for url in entry.locations
        if url.startswith("https:")
    }
    found = {url: hash_in_name(url.rpartition("/")[2]) for url, _ in urls}
    named = {url: prefix for url, prefix in found.items() if prefix}
    print(f"{source}: {len(named)} of {len(found)} names have a hash")
    assert len(named) >= min(least, len(found) - 1)
    assert {prefix for url, prefix in urls if prefix} <= {*named.values()}
    assert all(f"-{prefix}." in url for url, prefix in named.items())


def test_the_hash_in_the_catalog_takes_precedence_over_the_file_name(path: Path) -> None:
    url = "https://example.org/net-0676ba61.pth"
    assert expectation(path, "AB12", url=url) == Expectation("ab12", "the catalog")
    assert expectation(path, url=url) == Expectation("0676ba61", "the file name")
    assert expectation(path, url="https://example.org/a%2Fnet-0676ba61.pth?x=-11111111.") == (
        Expectation("0676ba61", "the file name")
    )


def test_a_hash_in_the_name_of_a_users_own_file_is_ignored(tmp_path: Path) -> None:
    assert expectation(write(tmp_path / "net-0676ba61.pth", b""), url=None) == Expectation()


def in_hub(folder: Path, blob: str) -> Path:
    """Write a file in the layout of the hub's cache, with the given blob name."""
    snapshot = folder / "models--a--b" / "snapshots" / "c0ffee"
    (folder / "models--a--b" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    write(folder / "models--a--b" / "blobs" / blob, b"the weights")
    (snapshot / "model.safetensors").symlink_to(Path("..", "..", "blobs", blob))
    return snapshot / "model.safetensors"


def test_the_expected_hash_of_a_hub_file_is_its_blob_name(tmp_path: Path) -> None:
    path = in_hub(tmp_path, sha256(b"other weights"))
    (tmp_path / "folder").symlink_to(path.parent)
    for name in (path, path.resolve(), tmp_path / "folder" / path.name):
        assert expectation(name, url=None) == Expectation(sha256(b"other weights"), "the hub")


def test_a_hub_file_with_a_git_hash_must_keep_the_hash_of_its_first_use(tmp_path: Path) -> None:
    path = in_hub(tmp_path, "0123456789" * 4)
    assert expectation(path, url=None) == Expectation()
    remember(path, path.stat(), sha256(b"the weights"), origin="hub")
    assert expectation(path, url=None) == Expectation(sha256(b"the weights"), FIRST_USE)


@pytest.mark.parametrize("origin", ["download", "hub"])
def test_a_file_in_a_shared_cache_must_keep_the_hash_of_its_first_use(
    path: Path, origin: str
) -> None:
    remember(path, path.stat(), sha256(b"the weights"), origin=origin)
    write(path, b"something else")
    assert expectation(path, url=None) == Expectation(sha256(b"the weights"), FIRST_USE)


def test_a_users_own_file_has_no_expected_hash(path: Path) -> None:
    remember(path, path.stat(), sha256(b"the weights"), origin="own")
    assert expectation(path, url=None) == Expectation()


def test_a_cached_file_keeps_its_origin_when_it_is_passed_by_its_path(path: Path) -> None:
    hash_and_record(path)
    remember(path, path.stat(), sha256(b"the weights"), origin="own")
    record = recorded(path)
    assert record is not None
    assert record.origin == "download"


@pytest.mark.parametrize("has_record", [True, False], ids=["listed", "not listed"])
def test_the_expected_hash_of_a_packaged_file_comes_from_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_record: bool
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    (tmp_path / "site" / "pack").mkdir(parents=True)
    path = write(tmp_path / "site" / "pack" / "net.bin", b"the weights")
    info = tmp_path / "site" / "pack-1.0.dist-info"
    info.mkdir()
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"published").digest()).rstrip(b"=").decode()
    listed = f"pack/net.bin,sha256={digest},9\n" if has_record else ""
    (info / "RECORD").write_text(f"pack/net.bin.txt,sha256=AAAA,0\n{listed}pack-1.0/RECORD,,\n")
    published = Expectation(sha256(b"published"), "the package's RECORD")
    expected = published if has_record else Expectation()
    assert expectation(path, url=None) == expected


def test_the_error_for_a_wrong_hash_names_both_hashes_and_the_remedy(hub: Path) -> None:
    path = hub / "resnet50-0676ba61.pth"
    expected = Expectation("0676ba61", "the file name")
    with pytest.raises(WeightsError) as raised:
        compare(path, sha256(b"x"), expected, "resnet50.IMAGENET1K_V1")
    assert str(raised.value) == (
        f"The file {path} has the sha256 {sha256(b'x')}, but the file name has 0676ba61. Run "
        "`headstrip weights repair resnet50.IMAGENET1K_V1`, which downloads the file again."
    )


@given(digits=st.integers(0, 64))
def test_the_first_digits_of_a_hash_are_enough(digits: int) -> None:
    compare(Path("net.pth"), sha256(b"x"), Expectation(sha256(b"x")[:digits], "the file name"))


@pytest.mark.parametrize(
    ("variables", "home"),
    [
        ({"HEADSTRIP_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"HEADSTRIP_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/headstrip"),
        ({"HEADSTRIP_CACHE": "~/a"}, "/home/me/a"),
        ({"HEADSTRIP_CACHE": ""}, "/home/me/.cache/headstrip"),
    ],
)
def test_environment_variables_set_the_folder_of_the_records(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], home: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(home)
