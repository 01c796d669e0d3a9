"""The work folder: its lock, its state, its shards, and which files headstrip removes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from tests.embed.output.shards import PROVENANCE, begun, shards_in, write

from headstrip import HeadstripError
from headstrip.embed.output.damage import DamagedFile
from headstrip.embed.output.work_dir import open_work_dir, work_folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_work_folder_is_beside_the_file_and_is_removed_without_a_finished_shard(
    out: Path,
) -> None:
    with open_work_dir(out) as work_dir:
        assert work_dir.folder == work_folder(out) == out.with_name("out.parquet.parts")
        work_dir.begin(PROVENANCE, replaces=False)
    assert list(out.parent.iterdir()) == []


def test_the_work_folder_stays_once_a_shard_is_done_and_the_next_run_finds_it(out: Path) -> None:
    with open_work_dir(out) as work_dir:
        shards = begun(work_dir, 0)
    with open_work_dir(out) as work_dir:
        assert work_dir.provenance == PROVENANCE
        assert work_dir.shard_files() == [shards.path(0)]
        assert shards.is_done(0)


@pytest.mark.parametrize("replaces", [True, False])
def test_the_state_is_empty_before_a_run_begins_and_is_read_back_afterwards(
    out: Path, replaces: bool
) -> None:
    with open_work_dir(out) as work_dir:
        assert (work_dir.provenance, work_dir.replaces) == (None, False)
        work_dir.begin(PROVENANCE, replaces=replaces)
        assert (work_dir.provenance, work_dir.replaces) == (PROVENANCE, replaces)


def test_a_second_process_is_refused_until_the_first_is_done(out: Path) -> None:
    with (
        open_work_dir(out),
        pytest.raises(HeadstripError, match="Another process is writing"),
        open_work_dir(out),
    ):
        pass
    with open_work_dir(out):
        pass


@pytest.mark.parametrize(
    "name", ["notes.txt", "0123456789abcdef/mine.txt", "0123456789abcdef/000000.parquet", "lock/x"]
)
def test_a_file_that_headstrip_did_not_write_is_named_and_kept(out: Path, name: str) -> None:
    mine = work_folder(out) / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(HeadstripError, match="which headstrip did not write"), open_work_dir(out):
        pass
    assert mine.read_text() == "mine"


def test_remove_keeps_and_names_files_that_appeared_during_the_run(out: Path) -> None:
    with open_work_dir(out) as work_dir:
        shards = begun(work_dir)
        (shards.folder / "mine.txt").write_text("mine")
        assert work_dir.remove() == [shards.folder.name]
    assert names_in(work_folder(out)) == [
        shards.folder.name,
        f"{shards.folder.name}/mine.txt",
    ]


def test_clearing_removes_shards_of_all_listings_and_the_state(out: Path) -> None:
    with open_work_dir(out) as work_dir:
        begun(work_dir, total=5)
        begun(work_dir, total=3)
        assert len(work_dir.shard_files()) == 5
        work_dir.clear()
        assert (work_dir.shard_files(), work_dir.provenance) == ([], None)
        assert names_in(work_dir.folder) == ["lock"]


def test_only_temporary_files_of_known_names_are_removed(out: Path) -> None:
    with open_work_dir(out) as work_dir:
        shards = begun(work_dir, 0)
        ours = [
            work_dir.folder / ".plan.json.0123abcd",
            work_dir.folder / ".out.parquet.0123abcd",
            shards.folder / ".listing.arrow.0123abcd",
            shards.folder / ".000001.parquet.0123abcd",
        ]
        others = [
            work_dir.folder / ".mine.png.0123abcd",
            work_dir.folder / ".plan.json.xyz",
            shards.folder / ".plan.json.0123abcd",
        ]
        for path in (*ours, *others):
            path.touch()
        work_dir.remove_temporary_files()
        assert not any(path.exists() for path in ours)
        assert all(path.exists() for path in others)


def test_shards_cover_all_rows_and_the_last_one_has_the_rest(tmp_path: Path) -> None:
    shards = shards_in(tmp_path, 5)
    assert [shards.bounds(number) for number in range(len(shards))] == [(0, 2), (2, 4), (4, 5)]
    assert (shards.count_rows([0, 2]), shards.count_rows([])) == (3, 0)


def test_a_written_shard_is_done_and_can_be_read_back(tmp_path: Path) -> None:
    shards = shards_in(tmp_path, 5)
    assert not shards.is_done(1)
    write(shards)
    table = shards.read(1)
    assert table.schema.equals(shards.schema, check_metadata=True)
    assert table["path"].to_pylist() == ["02", "03"]
    assert table["embedding"].to_pylist() == [[2.0] * 3, [3.0] * 3]
    assert shards.read(2, ["path"]).column_names == ["path"]


@pytest.mark.parametrize("damage", ["empty", "cut", "of another number", "of another run"])
def test_a_damaged_shard_or_one_of_another_run_is_not_done(tmp_path: Path, damage: str) -> None:
    shards, other = shards_in(tmp_path / "a", 4), shards_in(tmp_path / "b", 4, listing="other")
    write(shards)
    write(other)
    changed = {
        "empty": b"",
        "cut": shards.path(0).read_bytes()[:-50],
        "of another number": shards.path(1).read_bytes(),
        "of another run": other.path(0).read_bytes(),
    }
    shards.path(0).write_bytes(changed[damage])
    assert [shards.is_done(0), shards.is_done(1)] == [False, True]


def test_reading_a_shard_with_a_changed_byte_raises_damaged_file(tmp_path: Path) -> None:
    shards = shards_in(tmp_path, 2)
    write(shards)
    data = bytearray(shards.path(0).read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 8] ^= 1
    shards.path(0).write_bytes(data)
    with pytest.raises(DamagedFile, match=r"000000\.parquet' is damaged"):
        shards.read(0)


def test_a_permission_error_is_not_taken_for_a_damaged_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_in(tmp_path, 2)
    write(shards)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pa, "OSFile", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for call in (shards.is_done, shards.read):
        with pytest.raises(PermissionError):
            call(0)
