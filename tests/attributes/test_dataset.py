"""``LabelledImages``: images as ``embed`` reads them, and labels for ``predictors.loss``."""

from __future__ import annotations

import copy
import io
import pickle
import tarfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import HERE, pixels, tiny_encoder
from torch.utils.data import DataLoader

from headstrip import (
    Attribute,
    HeadstripError,
    ImageError,
    LabelledImages,
    OptionError,
    Preprocessing,
    PreprocessingError,
    build_encoder,
    embed_source,
    load_embeddings,
    source_of,
)
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors import Predictors

ATTRIBUTES = (
    Attribute("colour", "class", ("red", "green", "blue")),
    Attribute("marks", "labels", ("dot", "ring")),
    Attribute("size", "number"),
)
NAMES = ("a.png", "b.jpg", "c/d.png", "e.tif")
TABLE: dict[str, list[Any]] = {
    "path": [*NAMES],
    "colour": ["red", None, "blue", "green"],
    "marks": ["dot|ring", None, "|", "ring"],
    "size": [1.5, 2.0, None, -3.0],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "c").mkdir()
    for seed, name in enumerate(NAMES):
        Image.fromarray(pixels(seed)).save(folder / name)
    return folder


def tiny(attributes: Any = ATTRIBUTES) -> Encoder:
    encoder = tiny_encoder()
    encoder.predictors = Predictors(5, attributes) if attributes else None
    return encoder


def column(name: str, values: list[Any]) -> dict[str, list[Any]]:
    return {**TABLE, name: values}


def test_items_are_network_inputs_and_labels_as_the_loss_expects_them(photos: Path) -> None:
    encoder = tiny()
    data = LabelledImages(photos, TABLE, encoder)
    assert data.paths == list(NAMES)
    assert torch.equal(data[2][0], encoder.preprocess(photos / "c" / "d.png"))
    assert data.targets["colour"].tolist() == [0, -1, 2, 1]
    torch.testing.assert_close(
        data.targets["marks"],
        torch.tensor([[1, 1], [np.nan, np.nan], [0, 0], [0, 1]]),
        equal_nan=True,
    )
    torch.testing.assert_close(
        data.targets["size"], torch.tensor([1.5, 2.0, np.nan, -3.0]), equal_nan=True
    )
    x, targets = next(iter(DataLoader(data, batch_size=4)))
    assert x.shape == (4, 3, 8, 8)
    assert encoder.predictors is not None
    assert encoder.predictors.loss(encoder.predict(x), targets).isfinite()
    for name, values in data.targets.items():
        torch.testing.assert_close(targets[name], values, equal_nan=True)
    assert torch.equal(data[-1][0], x[3])
    with pytest.raises(IndexError, match="index 4 is out of range: there are 4 images"):
        data[4]


def sources(folder: Path, photos: Path) -> Iterator[tuple[str, Any]]:
    """Yield the same images in each kind of source."""
    yield "folder", photos
    (photos / "list.csv").write_text("path\n" + "\n".join(NAMES) + "\n")
    yield "list", photos / "list.csv"
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for name in NAMES:
            tar.add(photos / name, name)
    yield "tar", folder / "photos.tar"
    encoded = [(photos / name).read_bytes() for name in NAMES]
    pairs = zip(encoded, NAMES, strict=True)
    images = [{"bytes": content, "path": path} for content, path in pairs]
    pq.write_table(pa.table({"image": images}), folder / "photos.parquet")
    yield "parquet", folder / "photos.parquet"
    yield "made by source_of", source_of(photos)
    yield "bytes", encoded
    yield "file objects", [io.BytesIO(one) for one in encoded]
    yield "PIL images", [Image.open(io.BytesIO(one)) for one in encoded]
    yield "arrays", [np.asarray(Image.open(io.BytesIO(one))) for one in encoded]
    yield "paths", [photos / name for name in NAMES]


@pytest.mark.slow
def test_every_kind_of_source_gives_the_same_inputs_as_embed(tmp_path: Path, photos: Path) -> None:
    encoder = tiny(attributes=None)
    for kind, source in sources(tmp_path, photos):
        out = tmp_path / f"{kind}.parquet"
        embed_source(encoder, source, out, options=HERE)
        paths, embeddings, _ = load_embeddings(out)
        labels = {"path": list(paths), "number": [0.5 + at for at in range(len(paths))]}
        data = pickle.loads(pickle.dumps(LabelledImages(source, labels, encoder)))
        assert data.paths == sorted(paths), kind
        order = np.argsort(paths)
        x = torch.stack([data[at][0] for at in range(len(data))])
        with encoder.evaluating():
            found = encoder(x).numpy()
        # The batch has another size, so the last bits may differ.
        np.testing.assert_allclose(found, embeddings[order], rtol=1e-5, atol=1e-6, err_msg=kind)
        assert data.targets["number"].tolist() == [0.5 + at for at in order], kind


def test_an_encoder_without_predictors_takes_the_attributes_of_the_table(photos: Path) -> None:
    table = column("notes", ["one", "two", "three", "four"])
    data = LabelledImages(photos, table, tiny(attributes=None))
    assert [(one.name, one.kind, one.classes) for one in data.attributes] == [
        ("marks", "labels", ("dot", "ring")),
        ("size", "number", ()),
    ]
    assert data.skipped == {
        "colour": "each of its 3 labels belongs to one image only",
        "notes": "each of its 4 labels belongs to one image only",
    }
    chosen = LabelledImages(photos, TABLE, tiny(attributes=None), attributes=["size"])
    assert list(chosen.targets) == ["size"]


def test_a_folder_per_class_can_be_both_source_and_labels(tmp_path: Path) -> None:
    for at, kind in enumerate(["cat", "cat", "dog", "dog"]):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels(at)).save(tmp_path / kind / f"{at}.png")
    data = LabelledImages(tmp_path, tmp_path, tiny(attributes=None))
    assert data.attributes == (Attribute("class", "class", ("cat", "dog")),)
    again = LabelledImages(tmp_path, tmp_path, tiny(data.attributes))
    assert again.targets["class"].tolist() == [0, 0, 1, 1]


def test_images_without_labels_and_labels_without_images_are_counted(photos: Path) -> None:
    table = {name: [*values[:3], values[3]] for name, values in TABLE.items()}
    table["path"] = [*NAMES[:3], "gone.png"]
    data = LabelledImages(photos, table, tiny())
    assert data.paths == list(NAMES[:3])
    assert (data.join.joined, data.join.without_labels, data.join.without_image) == (3, 1, 1)
    with pytest.raises(HeadstripError, match="has labels for 4 paths, and only 0 of them"):
        LabelledImages(photos, column("path", [f"x/{name}" for name in NAMES]), tiny())
    prefixed = column("path", [f"x/{name}" for name in NAMES])
    assert len(LabelledImages(photos, prefixed, tiny(), path_prefix="x/")) == 4


def test_a_bad_image_is_named_and_listed(tmp_path: Path, photos: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "torn.png").write_bytes((photos / "a.png").read_bytes()[:900])
    table = {"path": ["a.png", "b.jpg", "torn.png"], "size": [1.0, 2.5, 3.0]}
    data = LabelledImages(tmp_path, table, tiny([ATTRIBUTES[2]]))
    with pytest.raises(ImageError, match=r"The image 'torn.png' cannot be used: .*truncated"):
        data[2]
    with pytest.raises(ImageError, match=r"The image 'torn.png' cannot be used"):
        list(DataLoader(data, batch_size=3, num_workers=1))
    bad = data.bad_images()
    assert list(bad) == ["torn.png"]
    assert "truncated" in bad["torn.png"]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_inputs_as_the_main_process(photos: Path, start: str) -> None:
    data = LabelledImages(photos, TABLE, tiny())
    (here,) = [x for x, _ in DataLoader(data, batch_size=4)]
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=start)
    assert torch.equal(torch.cat([x for x, _ in loader]), here)


def test_a_transform_receives_pil_images(photos: Path) -> None:
    encoder, seen = tiny(), []

    def transform(picture: Any) -> torch.Tensor:
        assert isinstance(picture, Image.Image)
        seen.append(picture.mode)
        return torch.zeros(1)

    assert LabelledImages(photos, TABLE, encoder, transform=transform)[0][0].shape == (1,)
    assert seen == ["RGB"]
    assert encoder.preprocessing is not None
    augmented = LabelledImages(photos, TABLE, encoder, transform=encoder.preprocessing.augmented())
    torch.manual_seed(0)
    first = augmented[0][0]
    assert first.shape == (3, 8, 8)
    assert not torch.equal(first, augmented[0][0])


def test_images_with_five_channels_are_read() -> None:
    steps = Preprocessing(crop=(64, 64), resize=64, mean=(0.5,) * 5, std=(0.2,) * 5)
    colours = {"colour": 2}
    encoder = build_encoder(
        "squeezenet1_1", weights=None, in_chans=5, preprocessing=steps, predictors=colours
    )
    arrays = [np.full((80, 90, 5), 40 * at, np.uint8) for at in range(3)]
    table = {"path": [f"{at:09d}" for at in (1, 2, 3)], "colour": [0, 1, None]}
    plain = LabelledImages(arrays, table, encoder)
    assert plain[1][0].shape == (5, 64, 64)
    assert encoder.preprocessing is not None
    augmented = LabelledImages(arrays, table, encoder, transform=encoder.preprocessing.augmented())
    torch.testing.assert_close(augmented[1][0], plain[1][0])
    assert plain.targets["colour"].tolist() == [0, 1, -1]


@given(st.lists(st.sampled_from(["red", "blue", "green", None]), min_size=4, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pattern_of_missing_labels_is_masked(photos: Path, colours: list[str | None]) -> None:
    encoder = tiny([ATTRIBUTES[0]])
    data = LabelledImages(photos, {"path": TABLE["path"], "colour": colours}, encoder)
    classes = [*ATTRIBUTES[0].classes]
    wanted = [-1 if one is None else classes.index(one) for one in colours]
    assert data.targets["colour"].tolist() == wanted


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            column("size", [date(2026, 1, 1)] * 4),
            "'size' cannot be .* of the type date32.day., and labels are",
        ),
        (
            column("size", [1, "2", None, None]),
            "'size' cannot be .* of the type int and str, and labels are",
        ),
        (
            column("colour", ["red", "pink", None, None]),
            "has the label 'pink' for 'b.jpg', and its",
        ),
        (column("marks", ["dot", "star|dot", None, None]), "has the label 'star' for 'b.jpg'"),
        (column("size", ["1", "many", None, None]), "'b.jpg' has 'many', which is not a finite"),
        (column("size", [1.0, -1e39, None, None]), "'b.jpg' has -1e[+]39, which is not a finite"),
        ({"path": TABLE["path"], "size": TABLE["size"]}, "has no column 'colour'"),
        ({"file": TABLE["path"], "image": TABLE["path"]}, "cannot find the paths"),
    ],
)
def test_labels_that_do_not_fit_the_predictors_are_refused(
    photos: Path, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(HeadstripError, match=message):
        LabelledImages(photos, table, tiny())


def test_options_that_do_not_apply_are_refused(photos: Path) -> None:
    with pytest.raises(OptionError, match="The predictors of the encoder say which attributes"):
        LabelledImages(photos, TABLE, tiny(), attributes=["colour"])
    with pytest.raises(HeadstripError, match="has no column 'shape'"):
        LabelledImages(photos, TABLE, tiny(attributes=None), attributes=["shape"])
    with pytest.raises(HeadstripError, match="no labels to train with: it has paths only"):
        LabelledImages(photos, {"path": TABLE["path"]}, tiny(attributes=None))
    for encoder in ("resnet18", None):
        with pytest.raises(OptionError, match=r"encoder must be an Encoder, got .*Pass build_enc"):
            LabelledImages(photos, TABLE, encoder)  # type: ignore[arg-type]
    without = copy.copy(tiny())
    without.preprocessing = None
    with pytest.raises(PreprocessingError, match="no preprocessing"):
        LabelledImages(photos, TABLE, without)
