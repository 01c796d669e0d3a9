"""Reading files of embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.distributions import run_python
from tests.embed.written import write_npy, write_parquet

import headstrip
from headstrip import HeadstripError, OptionError, load_embeddings
from headstrip.embed.output.loading import open_embeddings

PATHS = ["a.png", "b/torn.jpg", "c.png", "\\xff.png"]


def vectors(rows: int = 4, dim: int = 3) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return found


@pytest.mark.parametrize("write", [write_parquet, write_npy])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_load_embeddings_reads_the_written_values(
    tmp_path: Path, write: Callable[..., Path], dtype: type
) -> None:
    embeddings = vectors().astype(dtype)
    file = write(tmp_path / "out", PATHS, embeddings, bad=[1])
    paths, array, ok = load_embeddings(file)
    assert paths == PATHS
    assert ok.tolist() == [True, False, True, True]
    assert array.dtype == dtype
    assert np.array_equal(array[ok], embeddings[ok])
    assert np.isnan(array[1]).all()


@pytest.mark.parametrize("bad", [[], [0], [3], [0, 1, 2, 3]])
def test_any_rows_may_be_bad(tmp_path: Path, bad: list[int]) -> None:
    _, array, ok = load_embeddings(write_parquet(tmp_path / "out", PATHS, vectors(), bad=bad))
    assert np.flatnonzero(~ok).tolist() == bad
    assert np.array_equal(array[ok], vectors()[ok])
    assert np.isnan(array[~ok]).all()


def test_row_groups_and_blocks_of_any_size_keep_the_order_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, embeddings = [f"{number:03}.png" for number in range(100)], vectors(100)
    file = write_parquet(tmp_path / "out", paths, embeddings, bad=[7, 64], rows_per_group=23)
    monkeypatch.setattr("headstrip.embed.output.loading._BLOCK_ROWS", 10)
    found, array, ok = load_embeddings(file)
    assert found == paths
    assert np.array_equal(array[ok], embeddings[ok])
    assert np.flatnonzero(~ok).tolist() == [7, 64]


def test_a_file_without_rows_is_read(tmp_path: Path) -> None:
    paths, array, ok = load_embeddings(write_parquet(tmp_path / "out", [], vectors(0)))
    assert (paths, array.shape, ok.shape) == ([], (0, 3), (0,))


def test_the_file_of_an_earlier_headstrip_is_read(tmp_path: Path) -> None:
    metadata = {"fingerprint": {"name": "x"}, "batch_size": 16}
    table = pq.read_table(
        write_parquet(tmp_path / "new", PATHS, vectors(), bad=[1], metadata=metadata)
    )
    pq.write_table(table.select(["path", "embedding", "error"]), tmp_path / "out.parquet")
    paths, array, ok = load_embeddings(tmp_path / "out.parquet")
    assert (paths, ok.tolist()) == (PATHS, [True, False, True, True])
    assert np.array_equal(array[ok], vectors()[ok])
    assert open_embeddings(tmp_path / "out.parquet").metadata == metadata


def test_a_loaded_array_can_be_changed_and_its_file_overwritten(tmp_path: Path) -> None:
    file = write_npy(tmp_path / "out", PATHS, vectors())
    code = (
        "import numpy as np; from headstrip import load_embeddings\n"
        f"array = load_embeddings({str(file)!r})[1]\n"
        "array[0] = 7\n"
        "kept = array.copy()\n"
        f"np.save({str(file)!r}, array[:1])\n"
        "assert np.array_equal(array, kept, equal_nan=True)\n"
        f"print(np.load({str(file)!r})[0, 0])"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "7.0"), done.stderr


def test_a_compressed_file_cannot_be_mapped(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "out", PATHS, vectors())
    with pytest.raises(HeadstripError, match=r"compressed.*Leave out map=True"):
        load_embeddings(file, map=True)


def test_an_array_mapped_on_request_is_read_only(tmp_path: Path) -> None:
    _, array, _ = load_embeddings(write_npy(tmp_path / "out", PATHS, vectors()), map=True)
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_loading_parquet_takes_little_more_memory_than_the_array(tmp_path: Path) -> None:
    rows, dim = 60_000, 512
    embeddings = np.zeros((rows, dim), np.float32)
    embeddings[:, 0] = np.arange(rows)
    small = write_parquet(tmp_path / "small", PATHS, vectors())
    # One row group: memory use must not depend on how the writer split the file.
    file = write_parquet(tmp_path / "out", list(map(str, range(rows))), embeddings)
    code = (
        "import sys; from headstrip import load_embeddings\n"
        "def peak():\n"
        "    return int(next(x for x in open('/proc/self/status') if 'VmHWM' in x).split()[1])\n"
        f"load_embeddings({str(small)!r})\n"
        "before = peak()\n"
        f"array = load_embeddings({str(file)!r})[1]\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
        "print((peak() - before) * 1024 - array.nbytes)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not report its peak memory use")
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80 << 20 < embeddings.nbytes


def other(tmp_path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "other.parquet")
    return tmp_path / "other.parquet"


VECTOR = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
BROKEN = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"]}, "has no column 'path', so it is not a file of embeddings"),
        ({"path": ["a"]}, "has no column 'embedding'"),
        ({"path": [1], "embedding": VECTOR}, "The column 'path' of .* is int64"),
        ({"path": ["a"], "embedding": ["b"]}, "'embedding' of .* is string, and must be a list"),
        ({"path": ["a"], "embedding": [[1.0]]}, "of a fixed size"),
        ({"path": ["a"], "embedding": VECTOR.cast(pa.list_(pa.float64(), 2))}, "of float32"),
        ({"path": pa.array([None], pa.string()), "embedding": VECTOR}, "a path is null"),
        ({"path": BROKEN, "embedding": VECTOR}, "(?i)invalid utf8"),
    ],
)
def test_a_table_that_headstrip_did_not_write_gives_a_clear_error(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(HeadstripError, match=message) as caught:
        load_embeddings(other(tmp_path, columns))
    assert str(caught.value).endswith("Pass a file that `headstrip embed` wrote.")


def test_a_missing_or_unreadable_file_gives_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not a table")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.npy").write_text("not an array")
    for name, message in {
        "none.parquet": "There is no file '.*none.parquet'",
        "none.npy": "There is no file '.*none.npy'",
        f"{'x' * 300}.npy": "File name too long",
        "nul\0.npy": "embedded null",
        ".": "is a folder",
        "text.parquet": "cannot be read as a file of embeddings",
        "empty.parquet": "cannot be read as a file of embeddings",
        "text.npy": "cannot be read as a file of embeddings",
    }.items():
        with pytest.raises(HeadstripError, match=message):
            load_embeddings(tmp_path / name)


def test_metadata_that_is_not_a_json_object_gives_a_clear_error(tmp_path: Path) -> None:
    table = pa.table({"path": ["a"], "embedding": VECTOR})
    for text in ("{", "[]"):
        pq.write_table(table.replace_schema_metadata({"headstrip": text}), tmp_path / "x.parquet")
        with pytest.raises(HeadstripError, match="cannot be read as a file of embeddings"):
            load_embeddings(tmp_path / "x.parquet")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("write", [write_parquet, write_npy])
def test_a_truncated_file_gives_a_clear_error(
    tmp_path: Path, write: Callable[..., Path], part: float
) -> None:
    file = write(tmp_path / "out", PATHS, vectors(4, 300))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(HeadstripError, match=f"{file.name}' cannot be read as a file"):
        load_embeddings(file)


def test_a_changed_byte_of_an_embedding_is_noticed(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "out", PATHS, vectors(4, 300))
    content = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(0).column(1)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(HeadstripError, match="cannot be read as a file of embeddings"):
        load_embeddings(file)


def test_an_array_is_read_only_with_a_matching_rows_file(tmp_path: Path) -> None:
    file = write_npy(tmp_path / "out", PATHS, vectors())
    with pytest.raises(HeadstripError, match=r"belongs to '.*out\.npy'\. Name that file instead"):
        load_embeddings(tmp_path / "out.rows.parquet")
    np.save(file, vectors(3))
    with pytest.raises(HeadstripError, match=r"has 3 rows, and .* has 4: two different runs"):
        load_embeddings(file)
    np.save(file, vectors().astype(int))
    with pytest.raises(HeadstripError, match="contains int64 of shape"):
        load_embeddings(file)
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(HeadstripError, match="cannot be read as a file of embeddings"):
        load_embeddings(file)
    np.save(file, vectors())
    (tmp_path / "out.rows.parquet").unlink()
    with pytest.raises(HeadstripError, match=r"There is no file '.*out\.rows\.parquet'"):
        load_embeddings(file)


def test_loading_is_public_and_imports_no_torch() -> None:
    code = "import sys, headstrip; headstrip.load_embeddings; print('torch' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"
    assert "load_embeddings" in headstrip.__all__


def test_the_metadata_is_read_as_plain_values(tmp_path: Path) -> None:
    metadata = {"fingerprint": {"identity": "0" * 64}, "batch_size": 4}
    for write in (write_parquet, write_npy):
        file = open_embeddings(write(tmp_path / "out", PATHS, vectors(), metadata=metadata))
        assert file.metadata == json.loads(json.dumps(metadata))
        assert (file.rows, file.dim, file.dtype) == (4, 3, np.float32)


def test_too_many_rows_and_too_wide_embeddings_are_refused(tmp_path: Path) -> None:
    count, file = 20_000_000, tmp_path / "x.parquet"
    same = pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), ["a.png"])
    table = pa.table({"path": same, "error": same})
    pq.write_table(table, tmp_path / "x.rows.parquet", compression="zstd", store_schema=False)
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(HeadstripError, match=r"20,000,000 rows in [\d,]+ bytes, and headstrip"):
        open_embeddings(tmp_path / "x.npy")
    wide = pa.nulls(1, pa.list_(pa.float32(), (1 << 20) + 1))
    pq.write_table(pa.table({"path": ["a"], "embedding": wide}), file)
    with pytest.raises(HeadstripError, match="of a fixed size, up to 1048576"):
        open_embeddings(file)


@pytest.mark.parametrize("path", [3, None, b"photos.parquet"])
def test_something_other_than_a_path_is_refused(path: Any) -> None:
    with pytest.raises(OptionError, match="path must be a string or a path object, got "):
        load_embeddings(path)


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(OptionError, match=r"path is empty\. Pass a path such as 'photos.parquet'"):
        load_embeddings("")


def test_map_must_be_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"map must be True or False, got 'yes'\."):
        load_embeddings(tmp_path / "photos.npy", map="yes")  # type: ignore[arg-type]
