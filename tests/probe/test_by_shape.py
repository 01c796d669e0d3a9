"""What is answered by shape is what torch itself answers on the meta device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from headstrip import build_encoder
from headstrip.probe import ProbeError, probe_width
from headstrip.shapes import ByShape

SIZES = st.integers(1, 9)
MULTIPLES = st.integers(1, 4).map(lambda n: 4 * n)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


LAYERS = {
    "relu": lambda x, d: F.relu(x, inplace=True),
    "gelu": lambda x, d: F.gelu(x, approximate="tanh"),
    "hardswish": lambda x, d: F.hardswish(x),
    "softmax": lambda x, d: x.softmax(dim=-1),
    "dropout": lambda x, d: F.dropout(x, 0.1, False),
    "normalize": lambda x, d: F.normalize(x, dim=1),
    "batch norm": lambda x, d: F.batch_norm(
        x, meta(x.shape[1], dtype=d), meta(x.shape[1], dtype=d)
    ),
    "layer norm": lambda x, d: F.layer_norm(x, x.shape[-1:], meta(x.shape[-1], dtype=d)),
    "group norm": lambda x, d: F.group_norm(x, 2, meta(x.shape[1], dtype=d)),
    "linear": lambda x, d: F.linear(x, meta(7, x.shape[-1], dtype=d), meta(7, dtype=d)),
    "attention": lambda x, d: F.scaled_dot_product_attention(x, x, x[..., :3]),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@given(
    batch=SIZES, channels=MULTIPLES, height=SIZES, width=MULTIPLES, dtype=DTYPES, last=st.booleans()
)
def test_shape_and_dtype_are_torchs(layer, batch, channels, height, width, dtype, last):
    x = meta(batch, channels, height, width, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if last else x
    expected = layer(x, dtype)
    with ByShape():
        found = layer(x, dtype)
    assert (found.shape, found.dtype, found.device) == (
        expected.shape, expected.dtype, expected.device,
    )  # fmt: skip


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(5, 2), nn.BatchNorm2d(5), nn.LayerNorm(5), nn.GroupNorm(5, 5)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_does_not_fit_its_input_still_fails(layer):
    with ByShape(), pytest.raises(RuntimeError):
        layer.to("meta").eval()(meta(2, 8, 4, 4))


def test_a_mask_that_does_not_fit_the_attention_still_fails():
    x = meta(1, 2, 4, 8)
    with ByShape(), pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(x, x, x, attn_mask=meta(1, 1, 9, 9))


def test_a_dtype_that_is_asked_for_is_given():
    with ByShape():
        assert F.softmax(meta(2, 3), dim=1, dtype=torch.float64).dtype is torch.float64


def test_torchs_attention_with_its_weights_is_torchs_to_answer():
    attention = nn.MultiheadAttention(8, 2, device="meta").eval()
    x = meta(5, 2, 8)
    with ByShape():
        output, weights = attention(x, x, x, need_weights=True)
        alone, nothing = attention(x, x, x, need_weights=False)
    assert (output.shape, weights.shape) == ((5, 2, 8), (2, 5, 5))
    assert (alone.shape, nothing) == ((5, 2, 8), None)


def test_a_network_that_does_not_take_its_input_is_refused_by_the_probe():
    with pytest.raises(ProbeError, match="failed on input"):
        probe_width(nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), (3, 4, 4))


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t", "maxvit_t", "mobilenet_v3_small"])
def test_the_width_is_that_of_a_real_forward(name):
    encoder = build_encoder(name, weights=None)
    x = torch.zeros(2, *encoder.input_shape)
    with torch.inference_mode():
        assert encoder(x).shape == (2, encoder.output_dim)
