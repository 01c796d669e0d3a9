"""Calls by shape give the shapes of real calls, for every rule and any arguments."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.network.calls import CALLS, Call
from tests.network.mixed import mixed_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from headstrip import build_encoder
from headstrip.network.meta_ops import ByShape
from headstrip.network.width import ProbeError, probe_width

pytestmark = pytest.mark.filterwarnings("ignore")


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def outcome(call: Call, device: str, mode: Any = nullcontext) -> Any:
    """Return the shapes and dtypes of a call's results, or None if the call fails."""
    args, kwargs = tree_map(
        lambda one: one.to(device, copy=True) if isinstance(one, Tensor) else one,
        (call.args, call.kwargs),
    )
    try:
        with torch.no_grad(), mode():
            given = call.function(*args, **kwargs)
    except Exception:
        return None
    return [
        (tuple(one.shape), one.dtype) if isinstance(one, Tensor) else one
        for one in tree_leaves(given)
    ]


# Hypothesis draws slowly on a busy machine, and no rule is the cause.
@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_call_by_shape_gives_the_shapes_of_the_real_call(calls, data):
    call = data.draw(calls)
    found, on_meta = outcome(call, "meta", ByShape), outcome(call, "meta")
    if found is None:
        # In this case headstrip runs the network for real.
        return
    real = outcome(call, "cpu")
    # Torch's meta functions accept some calls that fail for real, and mix some dtypes.
    assert found in (real, on_meta)
    if real is not None:
        assert [one[0] for one in found if one] == [one[0] for one in real if one]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(call=CALLS["arithmetic"])
def test_sums_and_products_have_the_memory_order_of_torch(call):
    def order(mode: Any) -> tuple[int, ...] | None:
        args = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, call.args)
        try:
            with torch.no_grad(), mode():
                given = call.function(*args, **call.kwargs)
        except Exception:
            return None
        # An axis of one element has no order.
        return tuple(
            step for step, side in zip(given.stride(), given.shape, strict=True) if side > 1
        )

    assert order(ByShape) == order(nullcontext)


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


def test_a_requested_dtype_is_returned():
    with ByShape():
        assert F.softmax(meta(2, 3), dim=1, dtype=torch.float64).dtype is torch.float64


def test_multihead_attention_works_with_and_without_its_weights():
    attention = nn.MultiheadAttention(8, 2, device="meta").eval()
    x = meta(5, 2, 8)
    with ByShape():
        output, weights = attention(x, x, x, need_weights=True)
        alone, nothing = attention(x, x, x, need_weights=False)
    assert (output.shape, weights.shape) == ((5, 2, 8), (2, 5, 5))
    assert (alone.shape, nothing) == ((5, 2, 8), None)


def test_attention_that_projects_to_another_width_returns_that_width():
    x, square, out = meta(5, 2, 8), meta(24, 8), meta(3, 8)
    with ByShape():
        found, nothing = F.multi_head_attention_forward(
            x, x, x, 8, 2, square, None, None, None, False, 0.0, out, None, need_weights=False
        )
    assert (found.shape, nothing) == ((5, 2, 3), None)


@pytest.mark.parametrize("start", range(0, 300, 30))
def test_the_width_of_networks_that_mix_all_rules_is_correct(start):
    for seed in range(start, start + 30):
        model, shape = mixed_network(seed)
        width = probe_width(model, shape)
        with torch.no_grad():
            assert model.eval()(torch.rand(2, *shape)).shape == (2, width), seed


def test_the_probe_refuses_a_network_that_does_not_accept_its_input():
    with pytest.raises(ProbeError, match="failed on input"):
        probe_width(nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), (3, 4, 4))


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t", "maxvit_t", "mobilenet_v3_small"])
def test_the_width_matches_a_real_forward_pass(name):
    encoder = build_encoder(name, weights=None)
    x = torch.zeros(2, *encoder.input_shape)
    with torch.inference_mode():
        assert encoder(x).shape == (2, encoder.output_dim)
