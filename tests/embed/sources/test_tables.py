"""Images stored in tables: Parquet files, and datasets saved to disk."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embed.sources.made import contents, image_table, save_to_disk, write_files, write_images

from headstrip import HeadstripError, ImageError
from headstrip.embed.sources import source_of

EMPTY = "the image in the row has 0 bytes. Write it again, or leave out the row."
NONE = "the cell of the image is null. Fill it, or leave out the row."


def test_rows_of_a_parquet_file_are_named_by_file_and_row_number(tmp_path: Path) -> None:
    path = write_images(tmp_path / "x.parquet", [b"1", b"2", None, b""], row_group_size=3)
    found = {
        "x.parquet/000000000": b"1",
        "x.parquet/000000001": b"2",
        "x.parquet/000000002": NONE,
        "x.parquet/000000003": EMPTY,
    }
    assert contents(path) == contents(path, image_column="image") == found
    assert source_of(path).describe()["kind"] == "parquet"


def test_a_dataset_folder_has_the_rows_of_all_its_files(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train-00000-of-00002.parquet", [b"1"])
    write_images(tmp_path / "data" / "train-00001-of-00002.parquet", [b"2"])
    write_files(tmp_path, {"README.md": b""})
    found = {
        "data/train-00000-of-00002.parquet/000000000": b"1",
        "data/train-00001-of-00002.parquet/000000000": b"2",
    }
    assert contents(tmp_path) == found
    assert sorted(contents(f"{tmp_path}/data/*.parquet").values()) == [b"1", b"2"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(1)])
def test_a_column_of_plain_bytes_holds_images_too(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"id": [1, 2], "jpg": pa.array([b"1", None], kind)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert list(contents(tmp_path / "x.parquet").values()) == [b"1", NONE]


def test_the_image_column_must_be_unambiguous(tmp_path: Path) -> None:
    table = pa.table({"jpg": [b"1"], "mask": [b"2"], "text": ["a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(HeadstripError, match="several columns that contain bytes: 'jpg', 'mask'"):
        contents(tmp_path / "x.parquet")
    assert list(contents(tmp_path / "x.parquet", image_column="mask").values()) == [b"2"]
    with pytest.raises(HeadstripError, match=r"no column 'text' with the bytes.*'jpg', 'mask'"):
        contents(tmp_path / "x.parquet", image_column="text")
    struct = image_table([b"3"])["image"]
    pq.write_table(table.append_column("image", struct), tmp_path / "x.parquet")
    assert list(contents(tmp_path / "x.parquet").values()) == [b"3"]


def test_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    images = [b"%d" % number for number in range(5000)]
    path = write_images(tmp_path / "x.parquet", images, row_group_size=1700)
    source = source_of(path)
    items, reader = list(source.items()), source.reader()
    for row in (0, 1, 1023, 1024, 4999, 1699, 1700, 3, 2, 4998):
        assert reader.read(items[row]) == images[row]
    assert list(contents(path).values()) == images


def test_a_large_row_group_is_not_decoded_as_a_whole(tmp_path: Path) -> None:
    image = os.urandom(1 << 20)
    path = write_images(
        tmp_path / "x.parquet", [image] * 200, use_dictionary=False, write_batch_size=1
    )
    assert pq.read_metadata(path).num_row_groups == 1
    source = source_of(path)
    reader, before = source.reader(), pa.total_allocated_bytes()
    for item in source.items():
        assert reader.read(item) == image
        assert pa.total_allocated_bytes() - before < 64 << 20


def test_a_damaged_file_is_reported_and_a_damaged_page_costs_only_its_row(tmp_path: Path) -> None:
    path = write_images(
        tmp_path / "x.parquet",
        [b"1" * 5000, b"2"],
        row_group_size=1,
        compression="zstd",
        use_dictionary=False,
    )
    raw = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    raw[start : start + 40] = b"\xff" * 40
    path.write_bytes(raw)
    first, second = contents(path).values()
    assert isinstance(first, str)
    assert second == b"2"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(HeadstripError, match=r"x\.parquet' cannot be read"):
        contents(path)


def test_reading_from_a_rewritten_table_is_an_error(tmp_path: Path) -> None:
    path = write_images(tmp_path / "x.parquet", [b"1"])
    source = source_of(path)
    (item,) = source.items()
    write_images(path, [b"2"])
    os.utime(path, ns=(0, item.modified + 1))
    with pytest.raises(ImageError, match=r"^the file that holds it was changed"):
        source.reader().read(item)


def test_a_file_of_embeddings_in_the_folder_is_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "x.parquet", [b"1"])
    write_files(tmp_path, {"in/a.jpg": b"2"})
    own = pa.table({"path": ["a"]}).replace_schema_metadata({"headstrip": "{}"})
    pq.write_table(own, tmp_path / "in" / "out.parquet")
    assert contents(tmp_path / "in") == {"a.jpg": b"2"}
    (tmp_path / "in" / "a.jpg").unlink()
    assert contents(tmp_path) == {"x.parquet/000000000": b"1"}


def test_images_beside_tables_of_images_are_refused(tmp_path: Path) -> None:
    write_images(write_files(tmp_path, {"a.jpg": b""}) / "x.parquet", [b"1"])
    with pytest.raises(HeadstripError, match="single images and files that hold many"):
        contents(tmp_path)


def test_a_table_without_images_among_others_is_reported(tmp_path: Path) -> None:
    write_images(tmp_path / "x.parquet", [b"1"])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(HeadstripError, match=r"'y\.parquet' has no column with the bytes"):
        contents(tmp_path)


def test_a_dataset_saved_to_disk_has_the_rows_of_its_files(tmp_path: Path) -> None:
    save_to_disk(
        tmp_path,
        {"data-00000-of-00002.arrow": [b"1", None, b"2"], "data-00001-of-00002.arrow": [b"3"]},
    )
    write_files(tmp_path, {"cache-123.arrow": b"", "stray.jpg": b""})
    assert contents(tmp_path) == {
        "data-00000-of-00002.arrow/000000000": b"1",
        "data-00000-of-00002.arrow/000000001": NONE,
        "data-00000-of-00002.arrow/000000002": b"2",
        "data-00001-of-00002.arrow/000000000": b"3",
    }
    assert source_of(tmp_path).describe()["kind"] == "dataset"


def test_splits_saved_to_disk_are_one_source(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", {"data-00000-of-00001.arrow": [b"1"]})
    save_to_disk(tmp_path / "test", {"data-00000-of-00001.arrow": [b"2"]})
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert contents(tmp_path) == {
        "train/data-00000-of-00001.arrow/000000000": b"1",
        "test/data-00000-of-00001.arrow/000000000": b"2",
    }


def test_an_arrow_file_is_read_like_a_stream(tmp_path: Path) -> None:
    save_to_disk(tmp_path, {"a.arrow": []})
    table = image_table([b"1", b"2"])
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=1)
    assert list(contents(tmp_path).values()) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "does not name files in the same folder"),
        ('{"_data_files": []}', "does not name files"),
        ("[]", "does not name files"),
        ("{", "cannot be read"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"gone\.arrow' cannot be read: No such"),
        ('{"_data_files": [{"filename": "bad.arrow"}]}', r"bad\.arrow' cannot be read"),
        (
            '{"_data_files": [{"filename": "x"}], "_indices_data_files": [{"filename": "i"}]}',
            "flatten_indices",
        ),
    ],
)
def test_a_damaged_dataset_is_reported(tmp_path: Path, state: str, message: str) -> None:
    write_files(tmp_path, {"state.json": state.encode(), "bad.arrow": b"x" * 100})
    with pytest.raises(HeadstripError, match=message):
        contents(tmp_path)


def test_a_dataset_without_images_is_reported(tmp_path: Path) -> None:
    save_to_disk(tmp_path, {"a.arrow": [b"1"]})
    with pytest.raises(HeadstripError, match="no column 'label' with the bytes of images"):
        contents(tmp_path, image_column="label")
    table = pa.table({"a": [1]})
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(HeadstripError, match=r"no column with the bytes of images\. Save"):
        contents(tmp_path)
