"""Engines on a CUDA device."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.embed.engines.networks import engine_of

from headstrip import HeadstripError
from headstrip.embed.engines.engine import cosines
from headstrip.system.out_of_memory import OutOfMemoryError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def on_gpu(encoder):
    return copy.deepcopy(encoder).cuda()


@pytest.mark.parametrize("engine", ["torch", "compile"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99)])
def test_embeddings_from_several_threads_match_the_cpu(
    encoder, on_gpu, batches, engine, precision, least
):
    forward = engine_of(on_gpu, engine=engine, precision=precision)
    wanted = np.concatenate([*map(engine_of(encoder), batches)] * 4)
    with ThreadPoolExecutor(2) as pool:
        got = np.concatenate([*pool.map(forward, batches * 4)])
    assert cosines(got, wanted).min() > least
    assert forward.device.type == "cuda"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_cpu_engines_refuse_an_encoder_on_the_gpu(on_gpu, engine):
    if find_spec(engine) is None:
        pytest.skip(f"the extra {engine} is not installed")
    with pytest.raises(HeadstripError, match="computes on the CPU"):
        engine_of(on_gpu, engine=engine, batch_size=1)


def test_a_smaller_batch_runs_after_one_that_does_not_fit_in_memory(on_gpu, batches):
    large = engine_of(on_gpu, batch_size=4096)
    small = engine_of(on_gpu)
    small(batches[0])
    taken = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, taken + 2**-10))
    try:
        with pytest.raises(OutOfMemoryError, match="4096 images at once do not fit"):
            large(np.zeros((4096, 64, 64, 3), np.uint8))
        assert small(batches[0]).shape == (4, on_gpu.output_dim)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
