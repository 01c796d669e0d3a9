"""A preprocessing is data: it is compared, written to JSON, checked and fitted to other inputs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstrip import Preprocessing, PreprocessingError
from headstrip.images.preprocessing import INTERPOLATIONS, Fit

RESNET = Preprocessing(
    crop=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
CLIP = replace(RESNET, crop=(112, 112), resize=(128, 171), frames=16, antialias=False)

sizes = st.integers(1, 600)
numbers = st.floats(-2, 2)
divisors = st.floats(1e-3, 300)
pixels = st.integers(0, 255)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    channels = draw(st.integers(1, 4))
    resize = draw(st.none() | sizes | st.tuples(sizes, sizes))
    fits = get_args(Fit) if isinstance(resize, tuple) else ("squash",)
    return Preprocessing(
        crop=draw(st.tuples(sizes, sizes)),
        resize=resize,
        mean=draw(st.tuples(*[numbers] * channels)),
        std=draw(st.tuples(*[divisors] * channels)),
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        antialias=draw(st.booleans()),
        rescale=draw(divisors),
        frames=draw(st.none() | st.integers(1, 64)),
        fit=draw(st.sampled_from(fits)),
        fill=draw(st.none() | st.tuples(*[pixels] * channels)),
        crop_pct=draw(st.none() | st.floats(0.1, 2)),
    )


@given(preprocessings())
@settings(deadline=None)
def test_json_restores_an_equal_preprocessing(preprocessing: Preprocessing) -> None:
    again = Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))
    assert again == preprocessing
    assert hash(again) == hash(preprocessing)


def test_json_leaves_out_default_values() -> None:
    assert RESNET.to_json() == {
        "crop": [224, 224],
        "resize": 256,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_no_resize_survives_json() -> None:
    assert Preprocessing.from_json(replace(RESNET, resize=None).to_json()).resize is None


@pytest.mark.parametrize(
    "change",
    [
        {"crop": (224, 225)},
        {"resize": 255},
        {"resize": None},
        {"mean": (0.485, 0.456, 0.4)},
        {"std": (0.229, 0.224, 0.2)},
        {"interpolation": "bicubic"},
        {"antialias": False},
        {"rescale": 1.0},
        {"frames": 16},
        {"fill": (0, 0, 0)},
    ],
    ids=str,
)
def test_preprocessings_with_different_values_are_not_equal(change: dict[str, Any]) -> None:
    assert replace(RESNET, **change) != RESNET


def test_lists_are_accepted_like_tuples() -> None:
    listed = Preprocessing(
        crop=[224, 224], resize=256, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )  # type: ignore[arg-type]
    assert listed == RESNET
    assert hash(listed) == hash(RESNET)


def test_the_input_shape_has_channels_first_and_frames_second() -> None:
    assert RESNET.input_shape == (3, 224, 224)
    assert CLIP.input_shape == (3, 16, 112, 112)


@given(preprocessings(), st.data())
@settings(max_examples=25, deadline=None)
def test_the_output_has_the_input_shape(preprocessing: Preprocessing, data: st.DataObject) -> None:
    fitted = preprocessing.for_input((*preprocessing.input_shape[:-2], 9, 7))
    resize = data.draw(st.sampled_from([None, 11, (5, 11)]))
    fit = data.draw(st.sampled_from(get_args(Fit))) if isinstance(resize, tuple) else "squash"
    fitted = replace(fitted, interpolation="bilinear", resize=resize, fit=fit)
    frames = () if fitted.frames is None else (fitted.frames,)
    pixels = torch.zeros((*frames, fitted.channels, 8, 12), dtype=torch.uint8)
    out = fitted.transform()(pixels)
    assert out.shape == fitted.input_shape
    assert out.dtype == torch.float32


@given(preprocessings(), sizes, sizes, st.integers(1, 64))
@settings(deadline=None)
def test_the_resize_follows_the_crop_in_proportion(
    preprocessing: Preprocessing, height: int, width: int, frames: int
) -> None:
    clip = () if preprocessing.frames is None else (frames,)
    fitted = preprocessing.for_input((preprocessing.channels, *clip, height, width))
    assert fitted.input_shape == (preprocessing.channels, *clip, height, width)
    assert (
        replace(
            fitted,
            crop=preprocessing.crop,
            resize=preprocessing.resize,
            frames=preprocessing.frames,
            fit=preprocessing.fit,
        )
        == preprocessing
    )
    old, new = preprocessing.resize, fitted.resize
    if old is None:
        assert new is None
    elif isinstance(old, tuple):
        assert isinstance(new, tuple)
        assert new[0] == in_proportion(old[0], height / preprocessing.crop[0])
        assert new[1] == in_proportion(old[1], width / preprocessing.crop[1])
    else:
        shorter = min(new) if isinstance(new, tuple) else new
        assert shorter == in_proportion(old, min(height, width) / min(preprocessing.crop))


def in_proportion(size: int, factor: float) -> Any:
    return pytest.approx(max(1, size * factor), abs=0.5 + 1e-9)


@given(preprocessings())
@settings(deadline=None)
def test_its_native_input_changes_nothing(preprocessing: Preprocessing) -> None:
    assert preprocessing.for_input(preprocessing.input_shape) == preprocessing


@given(st.integers(1, 400), sizes, st.integers(1, 600))
@settings(deadline=None)
def test_a_crop_within_the_resize_stays_within_it(crop: int, more: int, side: int) -> None:
    covered = replace(RESNET, crop=(crop, crop), resize=crop + more)
    fitted = covered.for_input((3, side, side))
    assert isinstance(fitted.resize, int)
    assert fitted.resize >= side


def test_a_clip_adopts_the_number_of_frames_of_the_input() -> None:
    assert CLIP.for_input((3, 32, 112, 112)) == replace(CLIP, frames=32)


@pytest.mark.parametrize(
    "shape", [(1, 224, 224), (4, 224, 224), (3, 224), (3, 16, 224, 224)], ids=str
)
def test_other_channels_or_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PreprocessingError, match=r"The network takes .*Pass preprocessing="):
        RESNET.for_input(shape)


@pytest.mark.parametrize("shape", [(3, 0, 224), (3, 224, -1), (3, 224, 1.5)], ids=str)
def test_an_input_without_pixels_is_refused(shape: Any) -> None:
    with pytest.raises(PreprocessingError, match="above zero"):
        RESNET.for_input(shape)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": (0, 224)},
        {"crop": (224, -1)},
        {"crop": (224,)},
        {"crop": (224, 224, 3)},
        {"crop": 224},
        {"crop": (224.0, 224)},
        {"crop": (True, 224)},
        {"crop": None},
        {"resize": 0},
        {"resize": -1},
        {"resize": 256.0},
        {"resize": (256,)},
        {"resize": (0, 256)},
        {"resize": "256"},
        {"resize": True},
        {"frames": 0},
        {"frames": -1},
        {"frames": 1.5},
    ],
    ids=str,
)
def test_an_invalid_size_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        PreprocessingError, match=r"All sizes must be integers above zero.*Pass crop="
    ):
        replace(RESNET, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": ()},
        {"mean": (0.5,)},
        {"mean": 0.5},
        {"mean": ("a", "b", "c")},
        {"mean": "abc"},
        {"mean": (math.nan, 0, 0)},
        {"std": (0.5, 0.5)},
        {"std": (0.2, 0, 0.2)},
        {"std": (0.2, -0.2, 0.2)},
        {"std": (math.inf, 1, 1)},
        {"std": None},
    ],
    ids=str,
)
def test_invalid_statistics_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PreprocessingError, match=r"do not normalise an image.*every channel"):
        replace(RESNET, **change)


@pytest.mark.parametrize("divisor", [0, -1, math.nan, math.inf, "255", None])
def test_an_invalid_rescale_is_refused(divisor: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"rescale=.*255 for 8-bit"):
        replace(RESNET, rescale=divisor)


def test_the_error_for_an_unknown_filter_lists_the_known_ones() -> None:
    with pytest.raises(PreprocessingError, match=r"'cubic'.*nearest, .*bicubic.*lanczos"):
        replace(RESNET, interpolation="cubic")


@pytest.mark.parametrize(
    "data",
    [{}, {"crop": [224, 224]}, {**RESNET.to_json(), "size": 3}, [224, 224], None, {1: 2}],
    ids=str,
)
def test_json_of_something_else_is_refused(data: Any) -> None:
    with pytest.raises(
        PreprocessingError, match=r"does not describe a preprocessing.*crop, resize"
    ):
        Preprocessing.from_json(data)


def test_json_with_an_invalid_value_is_refused() -> None:
    with pytest.raises(PreprocessingError, match="above zero"):
        Preprocessing.from_json({**RESNET.to_json(), "resize": 0})
