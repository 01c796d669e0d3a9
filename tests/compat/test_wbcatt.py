"""Files of WBCAtt: checkpoints are read and written exactly, and tables are read as labels."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.compat.wbcatt_modules import WbcattPredictor, wbcatt_encoder
from torchvision import transforms

from headstrip import (
    Attribute,
    HeadstripError,
    UnknownBackboneError,
    WeightsError,
    build_encoder,
    fit_predictors,
)
from headstrip.compat import wbcatt

SIZES = [one.outputs for one in wbcatt.ATTRIBUTES]
HEADER = (
    "img_name,label,cell_size,cell_shape,nucleus_shape,nuclear_cytoplasmic_ratio,"
    "chromatin_density,cytoplasm_vacuole,cytoplasm_texture,cytoplasm_colour,granule_type,"
    "granule_colour,granularity,path"
)


def wbcatt_model(name: str = "resnet18", sizes: list[int] = SIZES) -> WbcattPredictor:
    """Return a model with random values, in eval mode, as after training."""
    torch.manual_seed(3)
    encoder = wbcatt_encoder(name)
    dim = encoder.eval()(torch.zeros(1, 3, 224, 224)).shape[1]
    model = WbcattPredictor(encoder, dim, sizes)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.01)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> WbcattPredictor:
    return wbcatt_model()


@pytest.fixture(scope="module")
def checkpoint(model: WbcattPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wbcatt") / "best_model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def same(one: Any, other: Any) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


NAMES = [
    "resnet18",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("vgg11", "vit_b_32", "convnext_tiny")
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_loading_and_saving_a_checkpoint_keeps_every_bit(name: str, tmp_path: Path) -> None:
    model = wbcatt_model(name)
    torch.save({"model": model.state_dict()}, tmp_path / "in.pth")
    encoder = wbcatt.load_checkpoint(tmp_path / "in.pth", name)
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected, found = model(x), encoder.predict(x)
    assert list(found) == [one.name for one in wbcatt.ATTRIBUTES]
    assert all(map(torch.equal, expected, found.values()))
    wbcatt.save_checkpoint(encoder, tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(content) == ["model"]
    assert same(content["model"], model.state_dict())
    wbcatt_model(name).load_state_dict(content["model"], strict=True)


def test_saving_and_loading_an_encoder_keeps_every_bit(tmp_path: Path) -> None:
    classes = {"colour": ["red", "blue"], "shape": ["round", "flat", "long"]}
    encoder = build_encoder("resnet18", weights=None, predictors=classes)
    wbcatt.save_checkpoint(encoder, tmp_path / "a.pth")
    again = wbcatt.load_checkpoint(tmp_path / "a.pth", "resnet18", attributes=classes)
    assert same(again.backbone.state_dict(), encoder.backbone.state_dict())
    assert same(again.predictors.state_dict(), encoder.predictors.state_dict())
    assert again.predictors.attributes == encoder.predictors.attributes
    assert not again.training


def test_images_are_prepared_as_in_the_code_of_wbcatt(checkpoint: Path, tmp_path: Path) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (363, 360, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    encoder = wbcatt.load_checkpoint(checkpoint, "resnet18")
    with Image.open(tmp_path / "cell.png") as image:
        assert torch.equal(encoder.preprocess(tmp_path / "cell.png"), theirs(image.convert("RGB")))
    (found,) = encoder.predict_labels([tmp_path / "cell.png"])
    assert found["cell_size"].value in ("big", "small")


def test_loading_draws_no_random_number_and_the_predictors_can_be_trained(checkpoint: Path) -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        encoder = wbcatt.load_checkpoint(checkpoint, "resnet18")
    assert torch.equal(torch.get_rng_state(), before)
    encoder.freeze().train()
    sum(one.sum() for one in encoder.predict(torch.rand(2, 3, 64, 64)).values()).backward()
    assert encoder.predictors["granularity"].weight.grad is not None


def test_attributes_of_wbcatt_are_written_in_its_order(tmp_path: Path) -> None:
    backwards = list(reversed(wbcatt.ATTRIBUTES))
    encoder = build_encoder("resnet18", weights=None, predictors=backwards)
    wbcatt.save_checkpoint(encoder, tmp_path / "a.pth")
    again = wbcatt.load_checkpoint(tmp_path / "a.pth", "resnet18")
    for name, module in encoder.predictors.named().items():
        assert torch.equal(again.predictors[name].weight, module.weight)


def test_classes_of_wbcatt_are_written_in_its_order(tmp_path: Path) -> None:
    backwards = [replace(one, classes=one.classes[::-1]) for one in wbcatt.ATTRIBUTES]
    encoder = build_encoder("resnet18", weights=None, predictors=backwards)
    wbcatt.save_checkpoint(encoder, tmp_path / "a.pth")
    again = wbcatt.load_checkpoint(tmp_path / "a.pth", "resnet18")
    for name, module in encoder.predictors.named().items():
        assert torch.equal(again.predictors[name].weight, module.weight.flip(0))
        assert torch.equal(again.predictors[name].bias, module.bias.flip(0))
    counted = {one.name: one.outputs for one in wbcatt.ATTRIBUTES}
    encoder = build_encoder("resnet18", weights=None, predictors=counted)
    wbcatt.save_checkpoint(encoder, tmp_path / "a.pth")
    again = wbcatt.load_checkpoint(tmp_path / "a.pth", "resnet18")
    assert torch.equal(again.predictors[0].weight, encoder.predictors[0].weight)


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {"model": {name: one for name, one in state.items() if key not in name}}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no key": (lambda state: state, "no state dict under the key 'model'"),
    "a list": (lambda state: [state], "no state dict under the key 'model'"),
    "no predictors": (without("attribute_predictors"), "it lacks tensors of 'image_encoder.*' and"),
    "no encoder": (without("image_encoder"), "it lacks tensors of 'image_encoder.*' and"),
    "another part": (
        lambda state: {"model": {**state, "decoder.weight": torch.ones(2)}},
        "it has 'decoder.weight' beside",
    ),
    "a bias less": (without("predictors.3.bias"), "not linear layers 0 to 10"),
    "a predictor less": (without("predictors.3."), "not linear layers 0 to 9"),
    "the last one less": (without("predictors.10."), "predictors of the sizes 2, 2, 6"),
    "a text for a weight": (
        lambda state: {"model": {**state, "attribute_predictors.0.weight": "x"}},
        "not linear layers 0 to 10",
    ),
    "a layer less": (without("layer4.1.conv2.weight"), "does not fit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_another_layout_is_refused_in_one_message(
    case: str, model: WbcattPredictor, tmp_path: Path
) -> None:
    change, message = WRONG[case]
    torch.save(change(dict(model.state_dict())), tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        wbcatt.load_checkpoint(tmp_path / "a.pth", "resnet18")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "a.pth").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(WeightsError):
        wbcatt.load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_another_network_another_width_and_a_missing_file_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="does not fit"):
        wbcatt.load_checkpoint(checkpoint, "resnet50")
    with pytest.raises(UnknownBackboneError):
        wbcatt.load_checkpoint(checkpoint, "resnet17")
    with pytest.raises(WeightsError, match="none"):
        wbcatt.load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"sizes 2, 2, 6.* are 'colour' 12\. Pass attributes="):
        wbcatt.load_checkpoint(checkpoint, "resnet18", attributes={"colour": 12})
    narrow = WbcattPredictor(wbcatt_encoder("resnet18"), 64, SIZES)
    torch.save({"model": narrow.state_dict()}, tmp_path / "narrow.pth")
    with pytest.raises(WeightsError, match=r"of 64 numbers, and torchvision:resnet18 gives 512"):
        wbcatt.load_checkpoint(tmp_path / "narrow.pth", "resnet18")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has no predictors"),
        ({"predictors": [Attribute("age", "number")]}, "'age' is of kind 'number'"),
        ({"predictors": [Attribute("tags", "labels", ("a",))]}, "'tags' is of kind 'labels'"),
        (
            {
                "predictors": [
                    replace(wbcatt.ATTRIBUTES[0], classes=("a", "big")),
                    *wbcatt.ATTRIBUTES[1:],
                ]
            },
            "'cell_size' has the classes 'a', 'big', and in a checkpoint",
        ),
        ({"predictors": {"colour": 2}, "in_chans": 1}, "was built with in_chans=1"),
    ],
)
def test_an_encoder_that_the_layout_cannot_hold_is_not_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    encoder = build_encoder("resnet18", weights=None, **options)
    with pytest.raises(HeadstripError, match=message):
        wbcatt.save_checkpoint(encoder, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_saving_to_a_missing_folder_gives_a_clear_error(tmp_path: Path) -> None:
    encoder = build_encoder("resnet18", weights=None, predictors={"colour": 2})
    with pytest.raises(HeadstripError, match="could not be written"):
        wbcatt.save_checkpoint(encoder, tmp_path / "none" / "a.pth")


def write_tables(folder: Path, rows: int = 40) -> None:
    """Write tables like those of WBCAtt's repository."""
    for part, count in (("train", rows), ("val", rows // 4), ("test", rows // 2)):
        lines = [HEADER]
        for row in range(count):
            chosen = [one.classes[row % one.outputs] for one in wbcatt.ATTRIBUTES]
            name = f"{part}_{row}.jpg"
            lines.append(f"{name},Basophil,{','.join(chosen)},PBC/basophil/{name}")
        (folder / f"pbc_attr_v1_{part}.csv").write_text("\n".join(lines) + "\n")


def test_the_tables_can_be_passed_to_fit_predictors(tmp_path: Path) -> None:
    write_tables(tmp_path)
    table = wbcatt.read_tables(tmp_path)
    assert len(table["path"]) == 70
    assert [table["split"].count(one) for one in ("train", "validation", "test")] == [40, 10, 20]
    paths = [str(path).removeprefix("PBC/") for path in table["path"]]
    embeddings = np.random.default_rng(0).normal(size=(70, 8)).astype(np.float32)
    fitted = fit_predictors(
        embeddings,
        table,
        paths=paths,
        path_prefix="PBC/",
        attributes=["cell_size", "granule_colour"],
        split_column="split",
        strengths=[0.1],
    )
    expected = [one for one in wbcatt.ATTRIBUTES if one.name in ("cell_size", "granule_colour")]
    assert list(fitted.attributes) == expected
    assert fitted.report["attributes"]["cell_size"]["images"]["test"] == 20


def test_a_missing_table_or_one_of_another_project_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="There is no table of labels"):
        wbcatt.read_tables(tmp_path)
    write_tables(tmp_path)
    (tmp_path / "pbc_attr_v1_test.csv").write_text("path,label\na.jpg,Basophil\n")
    with pytest.raises(HeadstripError, match="has no column 'cell_size', so it is not a table of"):
        wbcatt.read_tables(tmp_path)
