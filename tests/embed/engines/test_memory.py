"""Batches that do not fit in memory."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import pixels
from tests.embed.engines.networks import engine_of

from headstrip import EmbedSettings, HeadstripError, ImageError
from headstrip.embed.calibrate import fitting
from headstrip.embed.engines.make import make_engine
from headstrip.embed.run import embed_source
from headstrip.system.out_of_memory import OutOfMemoryError, is_out_of_memory

MORE_THAN_ANY_MEMORY = 1 << 50


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB)"),
        MemoryError(),
        OutOfMemoryError("too much"),
    ],
    ids=str,
)
def test_the_error_of_each_device_counts_as_out_of_memory(error):
    assert is_out_of_memory(error)


def test_the_error_of_the_cpu_allocator_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(MORE_THAN_ANY_MEMORY, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@given(st.sampled_from([ValueError, OSError, KeyError]), st.text())
def test_an_error_of_another_type_is_not_out_of_memory(kind, text):
    assert not is_out_of_memory(kind(f"{text} out of memory"))


def test_a_shape_error_is_not_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(raised.value)


class Tight(torch.nn.Module):
    """A network with memory for four images at once."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.seen = backbone, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        self.seen.append(weakref.ref(images))
        if len(images) > 4:
            torch.empty(MORE_THAN_ANY_MEMORY, dtype=torch.uint8)
        return self.backbone(images)


def test_a_batch_that_does_not_fit_frees_its_memory_and_a_smaller_one_runs(encoder, batches):
    encoder = copy.deepcopy(encoder)
    tight = encoder.backbone = Tight(encoder.backbone)
    large = engine_of(encoder, batch_size=8)
    with pytest.raises(OutOfMemoryError, match="8 images at once do not fit") as raised:
        large(np.concatenate(batches[:2]))
    assert isinstance(raised.value, HeadstripError)
    assert not isinstance(raised.value, ImageError)
    assert raised.value.__context__ is None
    assert tight.seen[0]() is None
    small = engine_of(encoder)
    assert small(batches[0]).shape == (4, encoder.output_dim)


def test_fitting_reduces_the_batch_size_until_a_batch_fits(encoder):
    encoder = copy.deepcopy(encoder)
    encoder.backbone = Tight(encoder.backbone)
    assert fitting(encoder, EmbedSettings(batch_size=16)).batch_size == 4
    assert fitting(encoder, EmbedSettings(batch_size=3)).batch_size == 3


def test_a_run_survives_a_momentary_shortage_of_memory(encoder, tmp_path, monkeypatch):
    Image.fromarray(pixels(1)).save(tmp_path / "a.png")
    left = [OutOfMemoryError("for a moment")]

    def short(*given, **asked):
        engine = make_engine(*given, **asked)
        outputs = engine.outputs

        def through(batch):
            if left:
                raise left.pop()
            return outputs(batch)

        engine.outputs = through
        return engine

    monkeypatch.setattr("headstrip.embed.execute.make_engine", short)
    assert embed_source(encoder, tmp_path, tmp_path / "out.parquet").bad == 0
    assert not left
