"""Measuring engines, and choosing one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headstrip import HeadstripError, OptionError, PreprocessingError
from headstrip.embed.calibrate import Measured, calibrate, choose_engine
from headstrip.embed.engines.engine import cosines

FINITE = st.floats(-100, 100, width=32)
ROWS = arrays.arrays(np.float32, (3, 5), elements=FINITE)


@given(ROWS)
def test_the_cosine_of_a_row_to_itself_is_one(rows):
    np.testing.assert_allclose(cosines(rows, rows), 1)


@given(ROWS, ROWS)
def test_cosines_are_symmetric_and_within_one(left, right):
    found = cosines(left, right)
    np.testing.assert_array_equal(found, cosines(right, left))
    assert np.abs(found).max() < 1 + 1e-9


def test_a_row_of_zeros_is_unlike_any_other():
    rows = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    assert cosines(rows, rows[::-1]).tolist() == [0, 0]


def test_eager_torch_in_fp32_is_the_reference(encoder, batches):
    (measured,) = calibrate(encoder, batches, ["torch"], ["fp32"], inference_threads=2)
    assert measured.cosine_min > 0.9999999
    assert measured.images_per_second > 0
    assert measured.seconds_to_compile > 0
    assert measured.unavailable is None


def test_calibrate_measures_each_engine_and_gives_the_reason_for_an_unavailable_one(
    encoder, batches
):
    found = calibrate(encoder, batches[:1], ["torch", "onnxruntime"], ["bf16"])
    assert [(one.engine, one.precision) for one in found] == [
        ("torch", "bf16"),
        ("onnxruntime", "bf16"),
    ]
    assert 0.99 < found[0].cosine_min <= found[0].cosine_mean < 1
    assert "no convolutions in bfloat16" in found[1].unavailable
    assert json.loads(json.dumps(found[1].to_json()))["images_per_second"] is None


@pytest.mark.parametrize("shapes", [[], [(4, 64, 64, 3), (2, 64, 64, 3)]])
def test_no_batches_or_batches_of_different_shapes_are_refused(encoder, shapes):
    with pytest.raises(PreprocessingError, match="batches of one shape"):
        calibrate(encoder, [np.zeros(shape, np.uint8) for shape in shapes])


def test_pixels_of_a_wrong_size_raise_instead_of_marking_an_engine_unavailable(encoder):
    with pytest.raises(PreprocessingError, match="A batch must be a uint8 array of shape"):
        calibrate(encoder, [np.zeros((4, 32, 32, 3), np.uint8)], ["torch"], ["fp32"])


@pytest.mark.parametrize("pixels", [3, None, "abc", [3]])
def test_something_other_than_batches_is_refused(encoder, pixels):
    with pytest.raises(PreprocessingError, match=r"Pass a list of one or more uint8 arrays"):
        calibrate(encoder, pixels)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder": "resnet18"}, "encoder must be an Encoder, got 'resnet18'. Pass build_enc"),
        ({"engines": "torch"}, "engines must be a list of names or None, got 'torch'. Pass "),
        ({"precisions": "fp32"}, "precisions must be a list of names or None, got 'fp32'. Pass "),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(encoder, batches, asked, message):
    with pytest.raises(OptionError) as raised:
        calibrate(**{"encoder": encoder, "pixels": batches} | asked)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("measured", ["abc", None, 3, [3]])
def test_choose_engine_accepts_only_the_list_that_calibrate_returns(measured):
    with pytest.raises(OptionError, match="measured must be the list that calibrate returns, got "):
        choose_engine(measured)


def test_a_tolerance_must_be_a_number():
    with pytest.raises(OptionError, match=r"tolerance must be a number, got 'a'\. Pass one such"):
        choose_engine([EAGER], tolerance="a")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"inference_threads": "2"},
            r"inference_threads='2' must be an integer of 1 or more\. Pass",
        ),
        ({"inference_threads": 0}, "inference_threads=0 must be an integer"),
        ({"inference_threads": None}, "inference_threads=None must be an integer"),
        ({"inference_threads": True}, "inference_threads=True must be an integer"),
        ({"threads": 0}, "threads=0 must be an integer"),
        ({"threads": None}, "threads=None must be an integer"),
        (
            {"precisions": ["fp8"]},
            r"precision='fp8' cannot be measured\. Pass one of 'fp32', 'bf16'",
        ),
        ({"precisions": ["auto"]}, "precision='auto' cannot be measured"),
        ({"images": "many"}, "images='many' must be an integer"),
    ],
)
def test_a_wrong_argument_raises_instead_of_marking_an_engine_unavailable(
    encoder, batches, asked, message
):
    with pytest.raises(ValueError, match=message):
        calibrate(encoder, batches, ["torch"], **{"precisions": ["fp32"], **asked})


EAGER = Measured("torch", "fp32", 10, 1, 1, 0)


def test_the_fastest_engine_is_chosen():
    assert choose_engine([EAGER, fast := Measured("openvino", "fp32", 20, 0.9999, 1, 0)]) is fast


def test_a_faster_engine_beyond_the_tolerance_is_not_chosen():
    assert choose_engine([EAGER, Measured("torch", "bf16", 50, 0.9989, 0.9999, 0)]) is EAGER


def test_the_caller_can_widen_the_tolerance():
    fast = Measured("torch", "bf16", 50, 0.9989, 0.9999, 0)
    assert choose_engine([EAGER, fast], tolerance=0.998) is fast


def test_an_engine_that_is_missing_or_gives_nan_is_not_chosen():
    missing = Measured("openvino", "fp32", unavailable="it is not installed.")
    broken = Measured("openvino", "bf16", 90, math.nan, math.nan, 0)
    assert choose_engine([missing, broken, EAGER]) is EAGER
    with pytest.raises(HeadstripError, match="No engine gives embeddings"):
        choose_engine([missing, broken])


def test_the_error_gives_a_reason_for_each_engine_when_none_could_run():
    measured = [
        Measured("openvino", "fp32", unavailable="OpenVINO is not installed."),
        Measured("onnxruntime", "bf16", unavailable="it has no convolutions"),
    ]
    message = (
        r"No engine could be run\. openvino in fp32: OpenVINO is not installed\. onnxruntime in "
        r"bf16: it has no convolutions\. Measure the engine 'torch' with precision 'fp32' too"
    )
    with pytest.raises(HeadstripError, match=message):
        choose_engine(measured)


@given(st.permutations([EAGER, Measured("compile", "fp32", 30, 1, 1, 9)]))
def test_the_order_of_measurements_does_not_change_the_choice(measured):
    assert choose_engine(measured).engine == "compile"
