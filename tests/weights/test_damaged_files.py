"""headstrip reads or refuses a damaged or forged file, and does nothing else."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.weights.files import SAVERS, contents, save_legacy, save_safetensors, save_zip

from headstrip import WeightsError

SMALL = {"a": torch.arange(3.0), "b": torch.arange(2)}


@pytest.fixture(params=[True, False], ids=["mapped", "read"])
def mapped(request: pytest.FixtureRequest) -> bool:
    return request.param


def rezipped(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], **kind) -> None:
    """Rewrite an archive with changed entries."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", **kind) as archive:
        for name, data in entries:
            for changed in change(name, data):
                archive.writestr(*changed)


def entry(path: Path, inside: str) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(one for one in archive.infolist() if inside in one.filename)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_zip({"a": torch.arange(1000.0)}, tmp_path / "x")


def test_a_wrong_checksum_is_refused_if_no_hash_was_compared(saved: Path, mapped: bool) -> None:
    flip(saved, entry(saved, "data/0").header_offset + 1000)
    assert len(contents(saved, mapped=mapped, checked=True).content) == 1
    with pytest.raises(WeightsError, match=r"checksum of 'x/data/0' in it is wrong"):
        contents(saved, mapped=mapped)


def test_an_entry_at_another_position_than_the_directory_states_is_refused(
    saved: Path, mapped: bool
) -> None:
    flip(saved, entry(saved, "data/0").header_offset + 32)
    with pytest.raises(WeightsError, match="'x/data/0' in it is not at the position"):
        contents(saved, mapped=mapped)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_with_the_same_name_are_refused(saved: Path, mapped: bool) -> None:
    rezipped(saved, lambda name, data: [(name, data)] * (2 if "data/0" in name else 1))
    with pytest.raises(WeightsError, match="two entries in it have the same name"):
        contents(saved, mapped=mapped, checked=True)


def test_compressed_entries_are_refused(saved: Path, mapped: bool) -> None:
    rezipped(saved, lambda name, data: [(name, data)], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="in it is compressed, which torch never does"):
        contents(saved, mapped=mapped, checked=True)


def test_a_stored_entry_with_two_different_sizes_is_refused(saved: Path, mapped: bool) -> None:
    data = saved.read_bytes()
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"x/data/0"))
    size = struct.pack("<I", 1 << 31)
    saved.write_bytes(data[: at + 24] + size + data[at + 28 :])
    with pytest.raises(WeightsError, match="'x/data/0' in it has two sizes"):
        contents(saved, mapped=mapped, checked=True)


def test_entries_that_share_the_same_bytes_are_refused(saved: Path, mapped: bool) -> None:
    data = saved.read_bytes()
    first = data.index(b"PK\x01\x02")
    one = entry(saved, "data/0").header_offset
    for name in ("byteorder", "version"):
        at = data.rindex(b"PK\x01\x02", first, data.rindex(f"x/{name}".encode()))
        data = data[: at + 42] + struct.pack("<I", one) + data[at + 46 :]
    saved.write_bytes(data)
    with pytest.raises(WeightsError, match="has a wrong position"):
        contents(saved, mapped=mapped, checked=True)


@pytest.mark.parametrize("change", [lambda d: d + b"more", lambda d: b"more" + d[:-22] + d[-22:]])
def test_bytes_before_or_after_an_archive_are_refused(
    saved: Path, change: Callable, mapped: bool
) -> None:
    saved.write_bytes(change(saved.read_bytes()))
    with pytest.raises(WeightsError, match="damaged"):
        contents(saved, mapped=mapped, checked=True)


def test_a_zip_archive_that_torch_did_not_write_gives_a_clear_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("photo.png", b"x")
    with pytest.raises(WeightsError, match=r"is a zip archive that torch\.save did not write"):
        contents(tmp_path / "x.pth")


def replaced_once(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def test_a_legacy_file_that_states_more_bytes_than_it_has_is_refused(tmp_path: Path) -> None:
    path = save_legacy({"a": torch.zeros(77_777)}, tmp_path / "x")
    huge = b"\x8a\x08" + (1 << 60).to_bytes(8, "little")
    replaced_once(path, b"J" + struct.pack("<i", 77_777) + b"Nt", huge + b"Nt")
    with pytest.raises(WeightsError, match="does not have the size that the file states"):
        contents(path, checked=True)
    small = save_legacy({"a": torch.zeros(1 << 16)}, tmp_path / "y")
    os.truncate(small, small.stat().st_size - 1)
    with pytest.raises(WeightsError, match="its last tensor is incomplete"):
        contents(small, checked=True)


def test_a_legacy_file_that_lists_too_few_tensors_is_refused(tmp_path: Path) -> None:
    path = save_legacy({"a": torch.zeros(3)}, tmp_path / "x")
    data = path.read_bytes()
    last = data.rindex(b"\x80\x02]")
    path.write_bytes(data[:last] + pickle.dumps([], 2))
    with pytest.raises(WeightsError, match="are not the tensors that it contains"):
        contents(path, checked=True)


@pytest.mark.parametrize("old", [b"X\x07\x00\x00\x00storage", b"FloatStorage"])
def test_a_legacy_file_that_torch_cannot_have_written_is_refused(
    tmp_path: Path, old: bytes
) -> None:
    path = save_legacy({"a": torch.zeros(3)}, tmp_path / "x")
    replaced_once(path, old, old[:-1] + b"x")
    with pytest.raises(WeightsError, match="not a weights file"):
        contents(path, checked=True)


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, save: Callable, mapped: bool
) -> None:
    path = save(SMALL, tmp_path / "x")
    data = path.read_bytes()
    for end in {*range(0, len(data), 7), *range(100), *range(len(data) - 100, len(data))}:
        path.write_bytes(data[:end])
        with pytest.raises(WeightsError, match=r"x.* is damaged or is not a weights file"):
            contents(path, mapped=mapped, checked=end % 2 == 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_file_with_one_flipped_bit_is_either_read_or_refused(
    tmp_path: Path, save: Callable
) -> None:
    path = save(SMALL, tmp_path / "x")
    data, refused, before = path.read_bytes(), 0, sorted(os.listdir(tmp_path))
    for index in range(1000):
        at, bit = index * 7919 % len(data), 1 << index % 8
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        try:
            contents(path, mapped=index % 2 == 0, checked=index % 3 == 0)
        except WeightsError:
            refused += 1
    assert refused > 150
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("folder", "remedy"),
    [("torch/hub/checkpoints", "headstrip weights repair NAME"), ("mine", "save a state dict")],
)
def test_the_remedy_for_a_damaged_file_depends_on_its_folder(
    folder: str, remedy: str, tmp_path: Path, mapped: bool
) -> None:
    path = tmp_path / folder / "net.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PK\x03\x04 and no archive")
    with pytest.raises(WeightsError, match=remedy):
        contents(path, mapped=mapped)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
    ],
    ids=["Python", "torch", "threads"],
)
@pytest.mark.parametrize("save", [save_zip, save_safetensors])
def test_a_lack_of_memory_or_threads_is_not_reported_as_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable, error: Exception
) -> None:
    path = save({"a": torch.arange(9.0)}, tmp_path / "x")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("threading.Thread.start", fail)
    with pytest.raises(WeightsError, match=r"x\.\w+ cannot be read: .*(ran out|started)") as caught:
        contents(path)
    assert "damaged" not in str(caught.value)
    assert "repair" not in str(caught.value)
