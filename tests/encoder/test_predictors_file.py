"""Predictor files: what they keep, and which encoders and files are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.conftest import tiny_encoder
from torchvision import models

from headstrip import Attribute, HeadstripError, OptionError, Preprocessing, build_encoder
from headstrip.encoder.comparison import describe_encoder
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors_file import FittedPredictors, load_predictors, write_predictors

NAME = "squeezenet1_1"
FOUR = (0.5,) * 4
STEPS = Preprocessing(crop=(64, 64), resize=72, mean=(0.5,) * 3, std=(0.5,) * 3)
ATTRIBUTES = (
    Attribute("colour, tint", "class", ("red", "b|ue", "line\nbreak", "😀", "NaN")),
    Attribute("type", "labels", ("a.b", "")),
    Attribute("0", "number"),
)


def content_for(encoder: dict[str, Any], dim: int = 512) -> FittedPredictors:
    generator = torch.Generator().manual_seed(0)
    shapes = {one.name: one.outputs for one in ATTRIBUTES}
    return FittedPredictors(
        ATTRIBUTES,
        {name: torch.randn(count, dim, generator=generator) for name, count in shapes.items()},
        {name: torch.randn(count, generator=generator) for name, count in shapes.items()},
        encoder,
        {"seed": 0},
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def build(state: Path) -> Callable[..., Encoder]:
    def build(name: str = NAME, **options: Any) -> Encoder:
        return build_encoder(name, **{"weights": state, "preprocessing": STEPS, **options})

    return build


@pytest.fixture
def file(build: Callable[..., Encoder], tmp_path: Path) -> Path:
    path = tmp_path / "cells.predictors.safetensors"
    write_predictors(path, content_for(describe_encoder(build())))
    return path


def test_a_written_file_is_read_back_equal(file: Path) -> None:
    written, found = content_for({}), load_predictors(file)
    assert found.attributes == ATTRIBUTES
    assert (found.dim, found.report) == (512, {"seed": 0})
    for name, weight in written.weights.items():
        assert torch.equal(found.weights[name], weight)
        assert torch.equal(found.biases[name], written.biases[name])


def test_equal_content_gives_equal_bytes_that_safetensors_reads(file: Path, tmp_path: Path) -> None:
    write_predictors(tmp_path / "again.safetensors", load_predictors(file))
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == {
            f"{key}.{end}"
            for key in ("colour, tint", "%74ype", "%30")
            for end in ("weight", "bias")
        }


def test_an_encoder_is_built_with_the_predictors_of_a_file(
    build: Callable[..., Encoder], file: Path
) -> None:
    before = torch.get_rng_state()
    encoder = build(predictors=file)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        found, embedding = encoder.predict(x), encoder(x)
    stored = load_predictors(file)
    for name, logits in found.items():
        expected = torch.nn.functional.linear(embedding, stored.weights[name], stored.biases[name])
        assert torch.equal(logits, expected)
    assert encoder.predictors is not None
    assert encoder.predictors.attributes == ATTRIBUTES
    assert encoder.predictors.trained


def test_a_manifest_can_be_built_with_the_predictors_of_a_file(
    build: Callable[..., Encoder], state: Path, file: Path
) -> None:
    encoder = build_encoder(build().manifest(), weights=state, predictors=file)
    assert encoder.predictors is not None
    assert encoder.predictors.names == [one.name for one in ATTRIBUTES]


def steps(**changes: Any) -> dict[str, Any]:
    """Return the arguments for an encoder with another preprocessing."""
    return {"preprocessing": replace(STEPS, **changes)}


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "another size": (steps(crop=(96, 96)), "preprocessing"),
    "another resize": (steps(resize=80), "preprocessing"),
    "another fit": (steps(resize=(72, 72), fit="cover"), "preprocessing"),
    "another interpolation": (steps(interpolation="bicubic"), "preprocessing"),
    "no antialiasing": (steps(antialias=False), "preprocessing"),
    "another divisor of the pixels": (steps(rescale=1.0), "preprocessing"),
    "another mean": (steps(mean=(0.4,) * 3), "preprocessing"),
    "another standard deviation": (steps(std=(0.4,) * 3), "preprocessing"),
    "another colour around small images": (steps(fill=(9, 9, 9)), "preprocessing"),
    "another background": (steps(background="black"), "preprocessing"),
    "another range of values": (steps(value_range="dtype"), "preprocessing"),
    "the preprocessing of its weights": ({"preprocessing": None}, "preprocessing"),
    "`img_size`": ({"preprocessing": None, "img_size": 96}, "inputs"),
    "grey images": ({"in_chans": 1, **steps(mean=(0.5,), std=(0.5,))}, "inputs"),
    "a channel more": ({"in_chans": ("R", "G", "B", "N"), **steps(mean=FOUR, std=FOUR)}, "inputs"),
    "other options": ({"options": {"dropout": 0.1}}, "options"),
    "bfloat16": ({"dtype": torch.bfloat16}, "dtype"),
    "float64": ({"dtype": torch.float64}, "dtype"),
    "random weights": ({"weights": None}, "weights.sha256"),
    "another weights file": ({"weights": "other"}, "weights.sha256"),
    "another architecture": ({"name": "squeezenet1_0", "weights": None}, "name"),
}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "predictors-file.md"


@pytest.mark.parametrize("case", FOREIGN)
def test_attaching_to_another_encoder_is_refused_with_the_difference(
    build: Callable[..., Encoder], file: Path, tmp_path: Path, case: str
) -> None:
    options, difference = FOREIGN[case]
    if options.get("weights") == "other":
        torch.manual_seed(1)
        torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
        options = {"weights": tmp_path / "other.pth"}
    with pytest.raises(HeadstripError) as caught:
        build(predictors=file, **options)
    message = str(caught.value)
    assert message.startswith(f"{str(file)!r} has predictors for another encoder than this one: ")
    assert re.search(rf"(: |; ){re.escape(difference)} is .+ in the file and .+ here", message)


def test_the_reference_page_lists_each_refused_encoder() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| `(\S+)` \|$", text, re.M)
    assert rows == [(case, difference) for case, (_, difference) in FOREIGN.items()]


def test_one_changed_parameter_is_refused(build: Callable[..., Encoder], file: Path) -> None:
    encoder = build()
    with torch.no_grad():
        next(encoder.backbone.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(HeadstripError, match="the values of the parameters differ"):
        load_predictors(file).attach(encoder)
    assert encoder.predictors is None


def test_a_changed_statistic_of_a_norm_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.backbone.append(torch.nn.BatchNorm1d(5).eval())
    content = content_for(describe_encoder(encoder), dim=5)
    content.attach(encoder)
    with torch.no_grad():
        next(encoder.backbone.buffers())[0] += 1e-6
    with pytest.raises(HeadstripError, match="the values of the parameters differ"):
        content.attach(encoder)


def test_predictors_fitted_to_an_array_have_no_known_encoder(
    build: Callable[..., Encoder], tmp_path: Path
) -> None:
    path = tmp_path / "array.safetensors"
    write_predictors(path, content_for({}))
    with pytest.raises(HeadstripError, match=r"fitted to an array\. Pass encoder=encoder"):
        build(predictors=path)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata of a file, and keep its tensors."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = json.loads(header["__metadata__"]["headstrip.predictors"])
    change(found)
    header["__metadata__"]["headstrip.predictors"] = json.dumps(found)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "format": (lambda found: found.update(format=2), "has the format 2, and headstrip .* reads"),
    "no attributes": (lambda found: found.update(attributes=[]), "name no attributes"),
    "a class less": (
        lambda found: found["attributes"][0]["classes"].pop(),
        r"the tensors of 'colour, tint' have the shapes",
    ),
    "another name": (
        lambda found: found["attributes"][0].update(name="shape"),
        "its tensors are not those of its attributes",
    ),
    "code": (
        lambda found: found["attributes"][0].update(kind="__import__('os').system('true')"),
        'has the kind "__import__',
    ),
    "a field more": (
        lambda found: found["attributes"][0].update(code="import os"),
        "exactly a name, a kind and classes",
    ),
    "no encoder": (lambda found: found.pop("encoder"), "no encoder or no report"),
    "hash": (lambda found: found.update(sha256="0" * 64), "not those that were written"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_with_changed_metadata_is_refused(file: Path, change: str) -> None:
    changes, message = CHANGES[change]
    changed(file, changes)
    with pytest.raises(HeadstripError, match=message):
        load_predictors(file)


@pytest.mark.parametrize("kept", [0, 5, 100, -1, -1000])
def test_a_truncated_file_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(HeadstripError, match="safetensors header is wrong"):
        load_predictors(file)


def test_a_changed_byte_is_detected(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(HeadstripError, match="tensors are not those that were written"):
        load_predictors(file)


def test_a_weights_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.zeros(2, 5)}, tmp_path / "weights.safetensors")
    with pytest.raises(HeadstripError, match=r"tensors without attributes.*headstrip fit"):
        load_predictors(tmp_path / "weights.safetensors")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"There is no file of predictors '.*none'"):
        build_encoder(NAME, weights=None, predictors=tmp_path / "none")
    with pytest.raises(HeadstripError, match="is not a regular file"):
        build_encoder(NAME, weights=None, predictors=str(tmp_path))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="could not be written"):
        write_predictors(tmp_path / "none" / "a.safetensors", content_for({}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, None, b"cells.predictors.safetensors"])
def test_an_argument_that_is_not_a_path_is_refused(path: Any) -> None:
    with pytest.raises(OptionError, match="path must be a string or a path object, got "):
        load_predictors(path)
