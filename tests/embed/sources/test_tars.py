"""Tar archives: headstrip reads images in place, extracts nothing and follows no link."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embed.sources.made import add, contents, write_files, write_tar

from headstrip import HeadstripError, ImageError
from headstrip.embed.sources import source_of

SHARD = {"000/a.jpg": b"1", "000/a.json": b"{}", "b.PNG": b"22", "c.cls": b"3"}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a" * 90 + "/" + "b" * 90 + "/" + "ü" * 200 + ".jpg"
NAMES = st.lists(
    st.binary(min_size=1, max_size=120).filter(
        lambda part: not {0, 0x2F} & set(part) and part not in (b".", b"..")
    ),
    min_size=1,
    max_size=3,
    unique=True,
)


def header(name: str = "a.jpg", **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def refused(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(HeadstripError) as caught:
        list(source_of(path).items())
    return str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
def test_images_of_an_archive_are_named_by_archive_and_member(tmp_path: Path, form: str) -> None:
    path = write_tar(tmp_path / "train.tar", SHARD, format=FORMATS[form])
    assert contents(path) == {"train.tar/000/a.jpg": b"1", "train.tar/b.PNG": b"22"}
    assert source_of(path).describe() == {"kind": "tar", "where": str(path)}


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_are_read_completely(tmp_path: Path, form: str) -> None:
    path = write_tar(tmp_path / "x.tar", {LONG: b"1", "b.jpg": b"2"}, format=FORMATS[form])
    assert contents(path) == {f"x.tar/{LONG}": b"1", "x.tar/b.jpg": b"2"}


def test_a_name_that_ustar_splits_is_read_completely(tmp_path: Path) -> None:
    name = "a" * 100 + "/" + "b" * 90 + ".jpg"
    path = write_tar(tmp_path / "x.tar", {name: b"1"}, format=tarfile.USTAR_FORMAT)
    assert contents(path) == {f"x.tar/{name}": b"1"}


@given(
    st.dictionaries(NAMES.map(b"/".join), st.binary(min_size=1, max_size=700), max_size=5),
    st.sampled_from(sorted(FORMATS.values())[1:]),
)
def test_headstrip_finds_the_same_members_as_tarfile(files: dict[bytes, bytes], form: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        named = {os.fsdecode(name) + ".jpg": each for name, each in files.items()}
        path = write_tar(Path(folder) / "x.tar", named, format=form)
        with tarfile.open(path) as archive:
            theirs = [(m.offset_data, m.size) for m in archive]
        assert [(item.offset, item.size) for item in source_of(path).items()] == theirs
        assert list(contents(path).values()) == list(named.values())


def test_archives_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "0.tar", {"x.jpg": b"1"})
    write_tar(tmp_path / "b" / "0.tar", {"x.jpg": b"2"})
    found = {"a/0.tar/x.jpg": b"1", "b/0.tar/x.jpg": b"2"}
    for what in ("", "/*/0.tar", "/{a,b}/0.tar", "/**/*"):
        assert contents(f"{tmp_path}{what}") == found


def test_braces_name_archives_that_must_all_exist(tmp_path: Path) -> None:
    write_tar(tmp_path / "t-00.tar", {"x.jpg": b"1"})
    write_tar(tmp_path / "t-01.tar", {"x.jpg": b"2"})
    assert contents(f"{tmp_path}/t-{{00..01}}.tar") == {
        "t-00.tar/x.jpg": b"1",
        "t-01.tar/x.jpg": b"2",
    }
    with pytest.raises(HeadstripError, match=r"no file '.*t-02\.tar'"):
        source_of(f"{tmp_path}/t-{{00..02}}.tar")


def test_unsafe_and_special_members_become_rows_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    out = "its name leads out of the archive: it is absolute, or has '..' in it."
    link = "it is a link, and headstrip does not follow links in an archive."
    other = "it is not a regular file."
    path = tmp_path / "in" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        add(archive, str(tmp_path / "secret.jpg"), b"1")
        add(archive, "../secret.jpg", b"2")
        add(archive, "a/../../b.jpg", b"3")
        add(archive, "soft.jpg", type=tarfile.SYMTYPE, linkname="../secret.jpg")
        add(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="good.jpg")
        add(archive, "device.jpg", type=tarfile.BLKTYPE, devmajor=8)
        add(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
        add(archive, "folder.jpg", type=tarfile.DIRTYPE)
        add(archive, "empty.jpg")
        add(archive, "./good//x.jpg", b"4")
        add(archive, "..jpg..jpg", b"5")
    assert contents(path) == {
        rf"x.tar/\x2f{str(tmp_path)[1:]}/secret.jpg": out,
        "x.tar/../secret.jpg": out,
        "x.tar/a/../../b.jpg": out,
        "x.tar/soft.jpg": link,
        "x.tar/hard.jpg": link,
        "x.tar/device.jpg": other,
        "x.tar/pipe.jpg": other,
        "x.tar/empty.jpg": "the file is empty.",
        "x.tar/good/x.jpg": b"4",
        "x.tar/..jpg..jpg": b"5",
    }
    assert sorted(os.listdir(tmp_path)) == ["in", "secret.jpg"]
    assert os.listdir(path.parent) == ["x.tar"]


def test_sparse_members_become_rows_with_a_reason(tmp_path: Path) -> None:
    old = bytearray(header("old.jpg", type=tarfile.GNUTYPE_SPARSE, size=512))
    old[482] = 1
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + 8 * 32 + sum(old[156:]))
    more = bytes(504) + b"\1" + bytes(7) + bytes(512)
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            pax = {
                "GNU.sparse.major": "1",
                "GNU.sparse.name": "new.jpg",
                "GNU.sparse.realsize": str(1 << 60),
            }
            add(archive, "GNUSparseFile.0/new.jpg", b"1", pax_headers=pax)
            add(archive, "b.jpg", b"2")
        rest = file.getvalue()
    (tmp_path / "x.tar").write_bytes(bytes(old) + more + bytes(512) + rest)
    sparse = "it is a sparse member (stored with holes), and headstrip does not read those."
    assert contents(tmp_path / "x.tar") == {
        "x.tar/old.jpg": sparse,
        "x.tar/new.jpg": sparse,
        "x.tar/b.jpg": b"2",
    }


def test_a_member_that_is_too_large_becomes_a_row_with_a_reason(tmp_path: Path) -> None:
    size = (1 << 28) + 1
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(header(size=size))
        file.truncate(512 + size + 1024)
    (message,) = contents(tmp_path / "x.tar").values()
    assert message == f"it has {size} bytes, and at most {size - 1} are read."


def test_global_and_per_member_pax_headers_are_applied(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", pax_headers={"comment": "x" * 5000}) as archive:
        add(archive, "a.jpg", b"12345", pax_headers={"size": "5", "path": "b.jpg"})
        add(archive, "c.jpg", b"2")
    assert contents(tmp_path / "x.tar") == {"x.tar/b.jpg": b"12345", "x.tar/c.jpg": b"2"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"x" * 512, "there is no valid header at byte 0"),
        (header() + b"x" * 700, "there is no valid header at byte 512"),
        (header(size=700) + b"x" * 600, "at byte 1112, within a member that starts at byte 512"),
        (header("a.json", size=1 << 40), "it ends at byte 512, within a member"),
        (header()[:300], "it ends within a header, at byte 300"),
        (header("x", type=tarfile.XHDTYPE, size=0), "it ends within a header, at byte 512"),
        (header("x", type=tarfile.XHDTYPE, size=2 << 20), "2097152 bytes, and 1048576 are allowed"),
        (header("x", type=tarfile.GNUTYPE_LONGNAME, size=1 << 40), "and 1048576 are allowed"),
        (header("x", type=tarfile.XHDTYPE, size=9) + b"99 path=a".ljust(512, b"\0"), "is damaged"),
        (header("x", type=tarfile.XHDTYPE, size=9) + b"0 path=ab".ljust(512, b"\0"), "is damaged"),
        (
            header("x", type=tarfile.XHDTYPE, size=11)
            + b"11 size=-1\n".ljust(512, b"\0")
            + header(),
            "states no valid size",
        ),
        (header() + bytes(1024) + header(), "it continues after its end, at byte 1024"),
    ],
)
def test_a_damaged_archive_is_reported_with_its_position(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    text = refused(tmp_path / "x.tar", raw)
    assert text.startswith("The archive 'x.tar' cannot be read: ")
    assert message in text


def test_changed_header_bytes_raise_no_other_error_than_a_headstrip_error(tmp_path: Path) -> None:
    raw = write_tar(tmp_path / "x.tar", {"a.jpg": b"1", LONG: b"2"}).read_bytes()

    @given(
        st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=8),
        st.integers(0, len(raw)),
    )
    def damaged(changes: list[tuple[int, int]], length: int) -> None:
        bad = bytearray(raw)
        for at, byte in changes:
            bad[at] = byte
        (tmp_path / "x.tar").write_bytes(bad[:length])
        try:
            contents(tmp_path / "x.tar")
        except HeadstripError as error:
            assert "cannot be read: " in str(error)  # noqa: PT017

    damaged()


def test_a_long_chain_of_headers_is_read_without_recursion(tmp_path: Path) -> None:
    link = header("x", type=tarfile.XHDTYPE, size=12) + b"12 path=a.b\n".ljust(512, b"\0")
    member = header("c.jpg", size=1) + b"1".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(link * 5000 + member + bytes(1024))
    assert contents(tmp_path / "x.tar") == {}


@pytest.mark.parametrize("size", [0, 2 * 1024])
def test_an_archive_cut_between_two_members_is_refused(tmp_path: Path, size: int) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"})
    os.truncate(tmp_path / "x.tar", size)
    with pytest.raises(HeadstripError, match="has no end mark, so it was cut"):
        contents(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.tar"])
def test_compressed_archives_are_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    kind = {"bz2": "bz2", "xz": "xz"}.get(name.rpartition(".")[2], "gz")
    with tarfile.open(tmp_path / name, f"w:{kind}") as archive:
        add(archive, "a.jpg", b"1")
    unpacker = {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz"}[kind]
    with pytest.raises(HeadstripError, match=f"is compressed, .* Unpack it with {unpacker},"):
        contents(tmp_path / name)


def test_a_member_may_be_named_like_the_start_of_a_compressed_file(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"BZh.jpg": b"1"})
    assert contents(path) == {"x.tar/BZh.jpg": b"1"}


def test_reading_from_a_rewritten_archive_is_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    source = source_of(path)
    first, second = source.items()
    reader = source.reader()
    assert reader.read(first) == b"1"
    write_tar(path, {"b.jpg": b"3", "a.jpg": b"4"})
    os.utime(path, ns=(0, first.modified + 1))
    with pytest.raises(ImageError, match=r"^the file that holds it was changed after it was"):
        reader.read(second)


def test_a_reader_keeps_few_archives_open(tmp_path: Path) -> None:
    for number in range(40):
        write_tar(tmp_path / f"{number}.tar", {"a.jpg": b"%d" % number})
    source, folder = source_of(tmp_path), Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("open files are listed in /proc alone")
    reader, before = source.reader(), len(list(folder.iterdir()))
    assert sorted(int(reader.read(item)) for item in source.items()) == list(range(40))
    assert len(list(folder.iterdir())) - before <= 16


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_members(tmp_path: Path) -> None:
    with open(tmp_path / "x.tar", "wb") as file:
        for _ in range(200):
            file.write(header() * 1000)
        file.write(bytes(1024))
    before, count = sys.getallocatedblocks(), 0
    for count, _ in enumerate(source_of(tmp_path / "x.tar").items(), 1):
        if count % 20_000 == 0:
            assert sys.getallocatedblocks() - before < 2_000
    assert count == 200_000


def test_a_folder_of_archives_leaves_other_files_out(tmp_path: Path) -> None:
    write_tar(
        write_files(tmp_path, {"notes.txt": b"", "index.json": b""}) / "x.tar", {"a.jpg": b"1"}
    )
    assert contents(tmp_path) == {"x.tar/a.jpg": b"1"}


@pytest.mark.parametrize("size", [2**63, 2**80])
def test_a_size_beyond_int64_is_clipped_to_the_largest_int64(tmp_path: Path, size: int) -> None:
    link = header("a.jpg", type=tarfile.LNKTYPE, linkname="b.jpg", size=size)
    (tmp_path / "x.tar").write_bytes(link + bytes(1024))
    (item,) = source_of(tmp_path / "x.tar").items()
    assert item.size == 2**63 - 1


@pytest.mark.parametrize("when", [-1.5, 2**40, 1e300, float("nan"), float("inf")])
def test_times_of_members_are_ignored_even_if_invalid(tmp_path: Path, when: float) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "a.jpg", b"1", pax_headers={"mtime": repr(when), "atime": "x"})
    assert contents(tmp_path / "x.tar") == {"x.tar/a.jpg": b"1"}
