"""Requests that a run refuses before it does any work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headstrip import EmbedOptions, EmbedSettings, HeadstripError, OptionError
from headstrip.embed.execute import execute
from headstrip.embed.output.loading import load_embeddings
from headstrip.embed.run import EmbedReport, embed_source
from headstrip.embed.sources import source_of
from headstrip.encoder.encoder import Encoder

Save = Callable[..., Path]


def embed(encoder: Encoder, source: Any, out: Path, **asked: Any) -> EmbedReport:
    options = EmbedOptions(**{"workers": 0} | asked)
    return embed_source(encoder, source, out, settings=EmbedSettings(batch_size=2), options=options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inference_threads", 0),
        ("inference_threads", True),
        ("inference_threads", "2"),
        ("workers", -1),
        ("workers", 1.5),
        ("max_errors", -1),
        ("timeout", 0),
        ("timeout", "5"),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", True),
        ("overwrite", "no"),
        ("exact", None),
    ],
)
def test_an_invalid_value_of_an_option_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}=.* Pass "):
        EmbedOptions(**{name: value})


@pytest.mark.parametrize(
    "name", ["x.csv", "x.NPY", "x.jsonl", "x.npz", "x.TXT", "x.safetensors", "x.html", "x.png"]
)
def test_an_output_with_the_suffix_of_another_format_is_refused(
    encoder: Encoder, save: Save, tmp_path: Path, name: str
) -> None:
    folder = save("a.png", 1).parent
    with pytest.raises(HeadstripError, match=r"Pass a file that ends in \.parquet or \.npy\."):
        embed(encoder, folder, tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x", "x.pq", "x.v2", "x.parquet", "x.npy"])
def test_other_output_names_are_accepted(
    encoder: Encoder, save: Save, tmp_path: Path, name: str
) -> None:
    folder = save("a.png", 1).parent
    assert embed(encoder, folder, tmp_path / name).rows == 1


def test_a_list_is_not_replaced_by_its_embeddings(
    encoder: Encoder, save: Save, tmp_path: Path
) -> None:
    path = save("a.png", 1)
    listed = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": [str(path)]}), listed)
    before = listed.read_bytes()
    os.symlink(listed, tmp_path / "link.parquet")
    for out in (listed, tmp_path / "link.parquet"):
        with pytest.raises(HeadstripError, match="is a file of the source"):
            embed(encoder, listed, out, overwrite=True)
    assert listed.read_bytes() == before


def test_an_image_is_not_replaced_by_its_embedding(encoder: Encoder, save: Save) -> None:
    path = save("a.png", 1)
    before = path.read_bytes()
    for source in (path.parent, iter([path])):
        with pytest.raises(HeadstripError, match=r"Pass a file that ends in \.parquet or \.npy\."):
            embed(encoder, source, path, overwrite=True)
    odd = path.rename(path.with_name("no suffix"))
    with pytest.raises(HeadstripError, match="is a file of the source"):
        embed(encoder, iter([odd]), odd, overwrite=True)
    assert odd.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"settings": {"batch_size": 3}}, "settings must be an EmbedSettings or None, got {'ba"),
        ({"settings": {}}, "settings must be an EmbedSettings or None, got {}. Pass for example "),
        (
            {"settings": EmbedOptions()},
            "settings must be an EmbedSettings or None, got an EmbedOptions",
        ),
        ({"options": []}, "options must be an EmbedOptions or None, got []. Pass for example "),
        ({"options": {"workers": 0}}, "options must be an EmbedOptions or None, got {'workers"),
        ({"progress": 3}, "progress must be a function or None, got 3. Pass one that takes "),
        ({"progress": ""}, "progress must be a function or None, got ''. Pass one that takes "),
        ({"notify": 3}, "notify must be a function or None, got 3. Pass one that takes "),
        ({"compute": "ray"}, "compute must be a function or None, got 'ray'. Leave it out, or "),
        ({"compute": 0}, "compute must be a function or None, got 0. Leave it out, or "),
        (
            {"out": None},
            "out must be a string or a path object, got None. Pass one such as 'photos",
        ),
        ({"out": ""}, "out is empty. Pass a path such as 'photos.parquet'."),
        ({"out": 3}, "out must be a string or a path object, got 3. Pass one"),
        (
            {"out": b"o"},
            "out must be a string or a path object, got b'o'. Pass one such as 'photos",
        ),
        ({"source": "\ud800"}, "The source '\\ud800' cannot be a path: no file name can have "),
        ({"source": {"a.png": 1}}, "The source is a dict, and the images could be its keys "),
        (
            {"encoder": "resnet18"},
            "encoder must be an Encoder, got 'resnet18'. Pass build_encoder('resnet18').",
        ),
        ({"encoder": None}, "encoder must be an Encoder, got None. Pass build_encoder("),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(
    encoder: Encoder, save: Save, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    right = {"encoder": encoder, "source": save("a.png", 1).parent, "out": tmp_path / "o.parquet"}
    with pytest.raises(OptionError) as raised:
        embed_source(**right | asked)
    assert str(raised.value).startswith(message)


def test_a_data_frame_or_a_mapping_cannot_be_a_source() -> None:
    for what in (pd.DataFrame({"path": ["a.png"]}), MappingProxyType({"a.png": 1})):
        with pytest.raises(OptionError, match=r"The source is .*, and .* Pass "):
            source_of(what)


def test_a_set_may_contain_only_paths() -> None:
    assert [item.path for item in source_of({"a.png"}).items()] == ["a.png"]
    with pytest.raises(HeadstripError, match=r"is a set with a bytes\. .*Pass a list\."):
        list(source_of({b"bytes of an image"}).items())


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"channels_last": "no"}, "Pass one of None, True, False"),
        ({"threads": 0}, "an integer of 1 or more"),
        ({"decode_mode": "device"}, "Pass one of None, 'exact', 'fast'"),
    ],
)
def test_an_invalid_value_of_a_setting_is_refused(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EmbedSettings(**asked)


def test_an_iterable_supports_only_the_exact_decode_mode(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="not in 'fast'"):
        embed_source(
            encoder, images(0), tmp_path / "out", settings=EmbedSettings(decode_mode="fast")
        )


def test_a_table_of_images_is_not_replaced(encoder: Encoder, save: Save, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    table = folder / "one.parquet"
    pq.write_table(pa.table({"image": [save("a.png", 1).read_bytes()]}), table)
    before = table.read_bytes()
    for source in (folder, table, str(folder / "*.parquet")):
        with pytest.raises(HeadstripError, match="is a file of the source"):
            embed(encoder, source, table, overwrite=True)
    assert table.read_bytes() == before


def images(bad: int) -> Iterator[Any]:
    yield np.zeros((20, 20, 3), np.uint8)
    for _ in range(bad):
        yield b"not a picture"
    yield Image.new("RGB", (20, 20))


def test_an_iterable_with_too_many_bad_images_writes_nothing(
    encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(HeadstripError, match=r"3 images could not be embedded, and max_errors is"):
        embed(encoder, images(3), out, max_errors=1)
    assert not list(tmp_path.iterdir())
    report = embed(encoder, images(3), out, max_errors=3)
    assert (report.rows, report.bad) == (5, 3)


@pytest.mark.parametrize(
    "asked",
    [
        {"workers": 2},
        {"inference_threads": 2},
        {"timeout": 5.0},
        {"retry_failed": True},
        {"checksum": True},
        {"exact": True},
    ],
)
def test_options_that_an_iterable_does_not_support_are_refused(
    encoder: Encoder, tmp_path: Path, asked: dict[str, Any]
) -> None:
    (name,) = asked
    with pytest.raises(HeadstripError, match=f"and {name}=.* is not possible"):
        embed(encoder, images(0), tmp_path / "out.parquet", **asked)


def test_ray_cannot_embed_an_iterable(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"Ray cannot embed .*leave out compute=\."):
        embed_source(encoder, images(0), tmp_path / "out.parquet", compute=execute)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_an_output_name_that_is_not_utf8_can_be_written_resumed_and_read(
    encoder: Encoder, save: Save, tmp_path: Path, suffix: str
) -> None:
    folder = save("a.png", 1).parent
    out = tmp_path / os.fsdecode(b"gr\xfcn" + suffix.encode())
    try:
        out.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    out.unlink()
    assert embed(encoder, folder, out).computed == 1
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "c.png").write_bytes(b"nothing")
    report = embed(encoder, folder, out)
    assert (report.rows, report.computed, list(report.failed)) == (3, 2, ["c.png"])
    paths, embeddings, ok = load_embeddings(out)
    assert paths == ["a.png", "b.png", "c.png"]
    assert ok.tolist() == [True, True, False]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])


def test_a_path_that_is_not_text_is_reported(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [7]}), tmp_path / "list.parquet")
    with pytest.raises(HeadstripError, match=r"has 7 at row 0, and paths are text\. Name the"):
        list(source_of(tmp_path / "list.parquet").items())


def test_an_empty_text_is_refused_as_a_source() -> None:
    with pytest.raises(HeadstripError, match=r"empty text\. Pass a folder"):
        source_of("")


def test_a_pattern_in_a_missing_folder_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"No such file or directory\)\. Check the path\."):
        list(source_of(tmp_path / "none" / "*.jpg").items())
