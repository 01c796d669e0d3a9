"""The engine "torch"."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import pixels
from tests.embed.engines.networks import engine_of
from torch import nn

from headstrip import PreprocessingError, build_encoder
from headstrip.embed.engines.network import pixels_network


def test_channels_first_gives_exactly_the_bits_of_the_encoder(encoder):
    # The pictures have the size after the resize, so that only the crop remains.
    whole = np.stack([pixels(seed, 72, 72) for seed in range(4)])
    images = torch.stack([encoder.preprocess(Image.fromarray(one)) for one in whole])
    with encoder.evaluating():
        wanted = encoder(images).numpy()
    got = engine_of(encoder, channels_last=False)(whole[:, 4:-4, 4:-4])
    assert np.array_equal(got, wanted)
    assert got.dtype == np.float32


def test_channels_last_differs_in_the_last_bits_only(encoder, batches):
    first, last = (engine_of(encoder, channels_last=last)(batches[0]) for last in (False, True))
    np.testing.assert_allclose(last, first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_does_not_change_the_encoder(encoder, batches, precision):
    encoder = copy.deepcopy(encoder).train()
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    before = {
        name: (one, one.data_ptr(), one.dtype, one.stride(), one.requires_grad, one.clone())
        for name, one in tensors.items()
    }
    engine_of(encoder, precision=precision)(batches[0])
    assert all(module.training for module in encoder.backbone.modules())
    now = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    for name, (one, place, dtype, stride, grad, values) in before.items():
        assert now[name] is one
        assert (one.data_ptr(), one.dtype, one.stride(), one.requires_grad) == (
            place,
            dtype,
            stride,
            grad,
        )
        assert torch.equal(one, values)


def test_an_encoder_in_train_mode_is_run_in_eval_mode(encoder, batches):
    training = copy.deepcopy(encoder).train()
    assert np.array_equal(engine_of(training)(batches[0]), engine_of(encoder)(batches[0]))


def test_only_the_weights_of_convolutions_are_copied(encoder):
    forward = engine_of(encoder)
    shared = {one.data_ptr() for one in encoder.backbone.parameters()}
    for module in forward._network.backbone.modules():
        for parameter in module.parameters(recurse=False):
            if not isinstance(module, nn.Conv2d):
                assert parameter.data_ptr() in shared
    first = engine_of(encoder, channels_last=False)._network.backbone
    assert {one.data_ptr() for one in first.parameters()} == shared


def test_parallel_threads_give_the_same_bits_as_one_thread(encoder, batches):
    forward = engine_of(encoder)
    torch.set_num_threads(1)
    wanted = [forward(batch) for batch in batches] * 4
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        got = list(pool.map(forward, batches * 4))
    assert all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_read_only_pixels_and_views_are_accepted(encoder, batches):
    forward, locked = engine_of(encoder), batches[0].copy()
    wanted = forward(locked)
    turned = np.asfortranarray(locked)
    locked.flags.writeable = False
    assert np.array_equal(forward(locked), wanted)
    assert np.array_equal(forward(turned), wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_next_batch_does_not_change_an_earlier_result(encoder, batches, precision):
    forward = engine_of(encoder, precision=precision)
    first = forward(batches[0])
    kept = first.copy()
    forward(batches[1])
    assert np.array_equal(first, kept)
    assert first.dtype == np.float32
    assert first.flags.writeable


def test_bf16_gives_the_bits_of_plain_autocast(encoder, batches):
    plain = pixels_network(encoder, bf16=False, channels_last=True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted = plain(torch.from_numpy(batches[0])).numpy()
    assert np.array_equal(engine_of(encoder, precision="bf16")(batches[0]), wanted)


def test_a_half_precision_encoder_runs_in_the_requested_precision(encoder, batches):
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    whole = copy.deepcopy(half).float()
    assert np.array_equal(engine_of(half)(batches[0]), engine_of(whole)(batches[0]))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 64, 64, 3), (4, 3, 64, 64), (4, 64, 64)])
def test_a_wrong_shape_is_refused_and_the_error_states_the_right_one(encoder, shape):
    with pytest.raises(PreprocessingError, match=r"uint8 array of shape \(4, 64, 64, 3\)"):
        engine_of(encoder)(np.zeros(shape, np.uint8))


def test_floats_are_refused(encoder):
    with pytest.raises(PreprocessingError, match="got a float32 array"):
        engine_of(encoder)(np.zeros((4, 64, 64, 3), np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tensorrt"}, "There is no engine 'tensorrt'. Use one of torch, compile"),
        ({"precision": "int8"}, "precision='int8' is not a valid value. Pass one of None, 'fp32'"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of 1 or more"),
        ({"threads": 1.5}, r"threads=1\.5 must be an integer of 1 or more"),
    ],
)
def test_settings_that_no_engine_supports_are_refused(encoder, settings, message):
    with pytest.raises(ValueError, match=message):
        engine_of(encoder, **settings)


def test_an_encoder_without_preprocessing_is_refused():
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        engine_of(build_encoder("shufflenet_v2_x0_5", weights=None))
