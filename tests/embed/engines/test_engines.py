"""Engines that convert the network: OpenVINO and ONNX Runtime."""

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
    # find_spec does not import the engine: importing OpenVINO would send telemetry.
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


def test_embeddings_match_eager_torch(forward, batches, reference):
    for batch, wanted in zip(batches, reference, strict=True):
        got = forward(batch)
        assert got.dtype == np.float32
        assert cosines(got, wanted).min() > 0.999999
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_parallel_threads_give_the_same_bits_as_one_thread(forward, batches):
    wanted = [forward(batch) for batch in batches] * 4
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(forward, batches * 4))
    assert all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_the_next_batch_does_not_change_an_earlier_result(forward, batches):
    first = forward(batches[0])
    kept = first.copy()
    forward(batches[1])
    assert np.array_equal(first, kept)


def test_read_only_pixels_are_accepted(forward, batches):
    pixels = batches[0].copy()
    pixels.flags.writeable = False
    assert np.array_equal(forward(pixels), forward(batches[0]))


def test_an_engine_does_not_change_the_pixels_of_a_batch(forward, batches):
    own = [batch.copy() for batch in batches]
    own[1].flags.writeable = False
    for batch in [*own, own[1], own[0]]:
        forward(batch)
    assert all(np.array_equal(one, other) for one, other in zip(own, batches, strict=True))


def test_a_conversion_that_computes_other_embeddings_is_refused(forward, encoder):
    other = engine_of(encoder)
    with pytest.raises(HeadstripError, match="computes other embeddings of torchvision:shufflenet"):
        forward.compare(other)


def test_zeros_for_a_bad_image_do_not_change_the_bits_of_its_neighbours(forward, batches):
    pixels = batches[0].copy()
    pixels[1] = 0
    kept = [0, 2, 3]
    assert np.array_equal(forward(pixels)[kept], forward(batches[0])[kept])


@pytest.mark.parametrize("engine", EXTRAS)
def test_the_error_for_a_missing_engine_names_the_extra_to_install(encoder, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(HeadstripError, match=rf"pip install 'headstrip\[{engine}\]'"):
        engine_of(encoder, engine=engine, batch_size=1)


def test_openvino_refuses_bf16_on_a_processor_without_bf16_units(encoder):
    need("openvino")
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has bfloat16 units")
    with pytest.raises(HeadstripError, match="this processor has no bfloat16 units"):
        engine_of(encoder, engine="openvino", precision="bf16", batch_size=1)


def test_onnxruntime_refuses_bf16(encoder):
    with pytest.raises(HeadstripError, match="no convolutions in bfloat16"):
        engine_of(encoder, engine="onnxruntime", precision="bf16", batch_size=1)


@pytest.mark.parametrize("engine", EXTRAS)
def test_the_error_names_a_network_that_an_engine_cannot_convert(encoder, engine):
    need(engine)
    branching = with_backbone(encoder, Branching())
    with pytest.raises(HeadstripError, match=f"'{engine}' cannot run torchvision:shuffle"):
        engine_of(branching, engine=engine, batch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXTRAS)
def test_an_engine_converts_a_network_from_the_catalog(encoder, batches, engine):
    need(engine)
    wanted = engine_of(encoder)(batches[0])
    got = engine_of(encoder, engine=engine)(batches[0])
    assert cosines(got, wanted).min() > 0.999999


@pytest.mark.slow
def test_openvino_sends_no_telemetry(tmp_path):
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


def test_listing_engine_names_does_not_import_torch():
    code = (
        "import sys\n"
        "from headstrip.embed.engines.registry import engine_names\n"
        "from headstrip.system.out_of_memory import OutOfMemoryError\n"
        "engine_names()\n"
        "print(sorted({'torch', 'openvino', 'onnxruntime'} & set(sys.modules)))\n"
    )
    result = run_python("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")
