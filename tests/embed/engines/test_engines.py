"""Engines that take over the network."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from tests.distributions import run_python
from tests.embed.engines.networks import Branching, engine_of, with_backbone

from headstrip import HeadstripError
from headstrip.embed.engines.engine import cosines
from headstrip.embed.engines.openvino import import_openvino

EXTRAS = {"openvino": ["openvino"], "onnxruntime": ["onnxruntime", "onnx", "onnxscript"]}


def need(engine):
    # Not by importing it: that is what tells OpenVINO's makers.
    if not all(map(find_spec, EXTRAS[engine])):
        pytest.skip(f"the extra {engine} is not installed")


@pytest.fixture(scope="module", params=EXTRAS)
def forward(request, small):
    need(request.param)
    return engine_of(small, engine=request.param)


@pytest.fixture(scope="module")
def reference(small, batches):
    eager = engine_of(small, channels_last=False)
    return [eager(batch) for batch in batches]


def test_embeddings_are_those_of_eager_torch(forward, batches, reference):
    for batch, wanted in zip(batches, reference, strict=True):
        got = forward(batch)
        assert got.dtype == np.float32
        assert cosines(got, wanted).min() > 0.999999
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_threads_at_once_give_the_bits_of_one_after_another(forward, batches):
    wanted = [forward(batch) for batch in batches] * 4
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(forward, batches * 4))
    assert all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_the_result_is_the_callers_own(forward, batches):
    first = forward(batches[0])
    kept = first.copy()
    forward(batches[1])
    assert np.array_equal(first, kept)


def test_pixels_that_may_not_be_written_to_are_taken(forward, batches):
    pixels = batches[0].copy()
    pixels.flags.writeable = False
    assert np.array_equal(forward(pixels), forward(batches[0]))


def test_a_batch_stays_what_it_is_when_others_follow(forward, batches):
    own = [batch.copy() for batch in batches]
    own[1].flags.writeable = False
    for batch in [*own, own[1], own[0]]:
        forward(batch)
    assert all(np.array_equal(one, other) for one, other in zip(own, batches, strict=True))


def test_a_conversion_that_goes_wrong_in_silence_is_noticed(forward, encoder):
    other = engine_of(encoder)
    with pytest.raises(HeadstripError, match="computes other embeddings of torchvision:shufflenet"):
        forward.compare(other)


def test_a_bad_images_neighbours_keep_their_bits(forward, batches):
    pixels = batches[0].copy()
    pixels[1] = 0
    kept = [0, 2, 3]
    assert np.array_equal(forward(pixels)[kept], forward(batches[0])[kept])


@pytest.mark.parametrize("engine", EXTRAS)
def test_a_missing_engine_is_named_with_its_extra(encoder, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(HeadstripError, match=rf"pip install 'headstrip\[{engine}\]'"):
        engine_of(encoder, engine=engine, batch_size=1)


def test_bf16_is_refused_where_float32_would_be_computed(encoder):
    need("openvino")
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has bfloat16 units")
    with pytest.raises(HeadstripError, match="this processor has no bfloat16 units"):
        engine_of(encoder, engine="openvino", precision="bf16", batch_size=1)


def test_onnxruntime_says_that_it_has_no_bf16(encoder):
    with pytest.raises(HeadstripError, match="no convolutions in bfloat16"):
        engine_of(encoder, engine="onnxruntime", precision="bf16", batch_size=1)


@pytest.mark.parametrize("engine", EXTRAS)
def test_a_network_that_an_engine_cannot_take_over_is_named(encoder, engine):
    need(engine)
    branching = with_backbone(encoder, Branching())
    with pytest.raises(HeadstripError, match=f"'{engine}' cannot run torchvision:shuffle"):
        engine_of(branching, engine=engine, batch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXTRAS)
def test_a_network_of_a_catalog_is_taken_over(encoder, batches, engine):
    need(engine)
    wanted = engine_of(encoder)(batches[0])
    got = engine_of(encoder, engine=engine)(batches[0])
    assert cosines(got, wanted).min() > 0.999999


@pytest.mark.slow
def test_openvino_reports_nothing_to_its_makers(tmp_path):
    need("openvino")
    code = (
        "import os, sys\n"
        f"os.environ['HOME'] = {str(tmp_path)!r}\n"
        "from headstrip.embed.engines.openvino import import_openvino\n"
        "openvino = import_openvino()\n"
        "from openvino.tools.ovc import telemetry_utils, convert_impl\n"
        "assert telemetry_utils.tm is convert_impl.tm, telemetry_utils.tm\n"
        "print(telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)\n"
    )
    result = run_python("-c", code)
    assert result.stdout == "openvino.tools.ovc.telemetry_stub False\n"
    assert list(tmp_path.iterdir()) == []


def test_naming_the_engines_imports_no_torch():
    code = (
        "import sys\n"
        "from headstrip.embed.engines.registry import engine_names\n"
        "from headstrip.system.out_of_memory import OutOfMemoryError\n"
        "engine_names()\n"
        "print(sorted({'torch', 'openvino', 'onnxruntime'} & set(sys.modules)))\n"
    )
    result = run_python("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")
