"""The two files of an array of embeddings: headstrip links, checks and repairs them."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.conftest import pixels, tiny_encoder
from tests.failing import failing

from headstrip import EmbedOptions, EmbedSettings, HeadstripError, load_embeddings
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.run import EmbedReport, embed_source
from headstrip.search.neighbors import nearest

Change = Callable[[Path], None]


def picture(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels(seed, 20, 25)).save(folder / name)


def embed(
    source: Path, out: Path, messages: list[str] | None = None, **asked: object
) -> EmbedReport:
    return embed_source(
        tiny_encoder(),
        source,
        out,
        settings=EmbedSettings(batch_size=2, shard_rows=2, threads=1),
        options=EmbedOptions(workers=0, inference_threads=1, **asked),
        notify=None if messages is None else messages.append,
    )


def both(out: Path) -> tuple[bytes, bytes]:
    return out.read_bytes(), out.with_name("o.rows.parquet").read_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / "photos", f"{number}.png", number)
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    return tmp_path / "photos"


@pytest.fixture
def out(photos: Path, tmp_path: Path) -> Path:
    embed(photos, tmp_path / "o.npy")
    return tmp_path / "o.npy"


def test_the_rows_file_describes_the_array_and_numpy_can_read_it(out: Path) -> None:
    array = np.load(out)
    schema = pq.read_schema(out.with_name("o.rows.parquet"))
    described = json.loads(schema.metadata[b"headstrip"])["array"]
    assert (described["shape"], described["dtype"]) == ([4, 5], "<f4")
    paths, loaded, ok = load_embeddings(out)
    assert np.array_equal(loaded, array, equal_nan=True)
    assert (paths, ok.tolist()) == (
        ["0.png", "1.png", "2.png", "bad.png"],
        [True, True, True, False],
    )


def flipped(out: Path) -> None:
    data = bytearray(out.read_bytes())
    data[-3] ^= 4
    out.write_bytes(data)


def cut(out: Path) -> None:
    os.truncate(out, out.stat().st_size - 1)


def appended(out: Path) -> None:
    with open(out, "ab") as file:
        file.write(b"\0")


def of_another_run(out: Path) -> None:
    other = out.with_name("photos2")
    for number in range(4):
        picture(other, f"{number}.png", 10 + number)
    embed(other, out.with_name("p.npy"))
    shutil.copy(out.with_name("p.npy"), out)


def rows_of_another_run(out: Path) -> None:
    array = out.read_bytes()
    of_another_run(out)
    out.write_bytes(array)
    shutil.copy(out.with_name("p.rows.parquet"), out.with_name("o.rows.parquet"))


def saved_by_numpy(out: Path) -> None:
    np.save(out, np.nan_to_num(np.load(out)))


def float64(out: Path) -> None:
    np.save(out, np.load(out).astype(np.float64))


def by_columns(out: Path) -> None:
    np.save(out, np.asfortranarray(np.load(out)))


def big_endian(out: Path) -> None:
    np.save(out, np.load(out).astype(">f4"))


def objects(out: Path) -> None:
    np.save(out, np.array([[{}]]), allow_pickle=True)


def one_row_less(out: Path) -> None:
    np.save(out, np.load(out)[:3])


def enormous(out: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 5)}
    np.lib.format.write_array_header_1_0(header, described)
    out.write_bytes(header.getvalue())


def gone(out: Path) -> None:
    out.unlink()


def empty(out: Path) -> None:
    out.write_bytes(b"")


CHANGES = [
    flipped,
    cut,
    appended,
    of_another_run,
    saved_by_numpy,
    float64,
    by_columns,
    big_endian,
    objects,
    one_row_less,
    enormous,
    gone,
    empty,
]


@pytest.mark.parametrize("change", [*CHANGES, rows_of_another_run])
def test_an_array_that_does_not_match_its_rows_is_refused_with_a_remedy(
    out: Path, change: Change
) -> None:
    change(out)
    with pytest.raises(HeadstripError, match=r"embed` line again|Pass a file that `headstrip"):
        load_embeddings(out)
    with pytest.raises(HeadstripError):
        open_embeddings(out)


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_run_rewrites_a_changed_array_and_reports_it(
    photos: Path, out: Path, change: Change
) -> None:
    before, messages = both(out), []
    change(out)
    report = embed(photos, out, messages)
    assert both(out) == before
    assert report.computed == 4
    assert change is gone or any(str(out) in message for message in messages)
    load_embeddings(out)


def test_rows_of_a_changed_array_are_not_reused_for_a_changed_source(
    photos: Path, out: Path
) -> None:
    saved_by_numpy(out)
    picture(photos, "new.png", 7)
    assert embed(photos, out).computed == 5
    clean = out.with_name("clean.npy")
    embed(photos, clean)
    assert out.read_bytes() == clean.read_bytes()


def test_a_changed_bit_in_the_array_header_is_noticed(out: Path) -> None:
    whole, chance = bytearray(out.read_bytes()), random.Random(0)
    flips = [(at, 1 << bit) for at in range(128) for bit in range(8)]
    for at, mask in chance.sample(flips, 400):
        data = bytearray(whole)
        data[at] ^= mask
        out.write_bytes(data)
        with pytest.raises(HeadstripError, match="cannot be read as a file of embeddings"):
            load_embeddings(out)


def test_without_a_digest_a_changed_header_gives_the_right_values_or_an_error(out: Path) -> None:
    whole, rows = bytearray(out.read_bytes()), out.with_name("o.rows.parquet")
    values = np.load(out)
    table = pq.read_table(rows).replace_schema_metadata(None)
    pq.write_table(table, rows)
    chance = random.Random(1)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(128)] ^= 1 << chance.randrange(8)
        out.write_bytes(data)
        try:
            found = load_embeddings(out)[1]
        except HeadstripError:
            continue
        assert np.array_equal(found, values, equal_nan=True)


def test_array_and_rows_of_an_earlier_headstrip_are_read_and_linked_by_the_next_run(
    photos: Path, out: Path
) -> None:
    before, rows, messages = both(out), out.with_name("o.rows.parquet"), []
    table = pq.read_table(rows)
    metadata = json.loads(table.schema.metadata[b"headstrip"])
    del metadata["array"]
    pq.write_table(table.replace_schema_metadata({"headstrip": json.dumps(metadata)}), rows)
    assert np.array_equal(load_embeddings(out)[1], np.load(out), equal_nan=True)
    embed(photos, out, messages)
    assert both(out) == before
    assert "written by an earlier headstrip" in messages[0]


def test_the_next_run_repairs_a_changed_byte_of_a_finished_table(
    photos: Path, tmp_path: Path
) -> None:
    out, messages = tmp_path / "o.parquet", []
    embed(photos, out)
    before = out.read_bytes()
    column = pq.read_metadata(out).row_group(0).column(1)
    data = bytearray(before)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    out.write_bytes(data)
    embed(photos, out, messages)
    assert out.read_bytes() == before
    assert "is damaged" in messages[0]


def test_a_file_that_is_replaced_while_it_is_read_is_noticed(photos: Path, out: Path) -> None:
    file = open_embeddings(out)
    picture(photos, "0.png", 9)
    embed(photos, out)
    with pytest.raises(HeadstripError, match="replaced while it was read"):
        nearest(file, np.ones((1, 5), np.float32))


def problem_of(call: Callable[[], object]) -> str:
    """Call, and return the message of a HeadstripError, or an empty string."""
    try:
        call()
    except HeadstripError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "names", [("replace",), pytest.param(("replace", "fsync"), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_run_that_fails_at_any_call_leaves_no_array_without_its_rows(
    photos: Path, tmp_path: Path, is_first: bool, names: tuple[str, ...]
) -> None:
    for at in range(200):
        out = tmp_path / f"{at}" / "o.npy"
        out.parent.mkdir()
        if not is_first:
            embed(photos, out)
            picture(photos, "0.png", 100 + at)
        with failing(*names, at=at) as calls:
            failed = problem_of(lambda out=out: embed(photos, out))
        assert not failed or "could not be written (No space left" in failed
        if out.exists():
            assert out.with_name("o.rows.parquet").exists()
            refused = problem_of(lambda out=out: load_embeddings(out))
            assert not refused or "line again" in refused
        embed(photos, out)
        load_embeddings(out)
        assert sorted(path.name for path in out.parent.iterdir()) == ["o.npy", "o.rows.parquet"]
        if not calls.hit:
            return
    raise AssertionError("the calls do not end")
