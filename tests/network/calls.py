"""Calls of all functions that headstrip computes by shape, with valid and invalid arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])
SIDES = st.integers(1, 5)
DIMS = st.integers(1, 5)
CHANNELS = st.sampled_from([1, 2, 4, 6, 8])


@dataclass
class Call:
    """A function and its arguments, tensors on the CPU."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@st.composite
def inputs(draw: st.DrawFn, dims: st.SearchStrategy[int] = DIMS) -> Tensor:
    """A tensor of any layout: contiguous, channels last, transposed, or every other element."""
    shape = [draw(SIDES) for _ in range(draw(dims))]
    if len(shape) > 1:
        shape[1] = draw(CHANNELS)
    x = torch.rand(shape).to(draw(DTYPES))
    layout = draw(st.sampled_from(["plain", "plain", "last", "turned", "strided"]))
    if layout == "last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "turned":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.cat([x, x], -1)[..., ::2] if layout == "strided" else x


def off(draw: st.DrawFn, size: int) -> int:
    """Return the size, or sometimes another one."""
    return size + draw(st.sampled_from([0] * 12 + [1]))


def values(draw: st.DrawFn, x: Tensor, *shape: int) -> Tensor:
    """Return a parameter for an input, sometimes with another shape or dtype."""
    other = draw(st.sampled_from([x.dtype] * 12 + [torch.float64]))
    return torch.rand([off(draw, side) for side in shape]).to(other)


def maybe(draw: st.DrawFn, make: Callable[[], Any]) -> Any:
    return make() if draw(st.booleans()) else None


@st.composite
def pointwise(draw: st.DrawFn) -> Call:
    x = draw(inputs())
    function = draw(
        st.sampled_from(
            [
                F.relu,
                F.relu6,
                F.elu,
                F.selu,
                F.celu,
                F.leaky_relu,
                F.silu,
                F.mish,
                F.hardtanh,
                F.hardswish,
                F.hardsigmoid,
                F.gelu,
                F.softplus,
                F.sigmoid,
                F.tanh,
                torch.relu,
                torch.sigmoid,
                torch.tanh,
                Tensor.relu,
                Tensor.sigmoid,
                Tensor.tanh,
            ]
        )
    )
    inplace = {F.relu, F.relu6, F.selu, F.silu, F.mish, F.hardswish, F.hardsigmoid}
    if function in inplace and draw(st.booleans()):
        return (
            Call(function, (x, True))
            if draw(st.booleans())
            else Call(function, (x,), {"inplace": True})
        )
    if function in {F.elu, F.celu, F.leaky_relu} and draw(st.booleans()):
        return Call(function, (x, 0.5), {"inplace": draw(st.booleans())})
    if function is F.gelu and draw(st.booleans()):
        return Call(function, (x,), {"approximate": "tanh"})
    if function is F.hardtanh and draw(st.booleans()):
        return Call(function, (x, -0.5, 0.5, draw(st.booleans())))
    if function in {torch.sigmoid, torch.tanh} and draw(st.booleans()):
        return Call(function, (x,), {"out": torch.empty(0, dtype=draw(DTYPES))})
    return Call(function, (x,))


@st.composite
def arithmetic(draw: st.DrawFn) -> Call:
    """Operands of one shape, a vector along an axis, or whatever broadcasts or does not."""
    x = draw(inputs())
    function = draw(st.sampled_from([Tensor.add, Tensor.mul, Tensor.add_]))
    kind = draw(st.sampled_from(["same", "vector", "vector", "some", "number", "other"]))
    if kind == "number":
        return Call(function, (x, draw(st.sampled_from([2, 0.5, True]))))
    if kind == "other":
        other = draw(inputs())
    else:
        axis = draw(st.integers(0, x.ndim - 1))
        kept = {
            "same": set(range(x.ndim)),
            "vector": {axis},
            "some": set(draw(st.lists(st.integers(0, x.ndim - 1)))),
        }[kind]
        shape = [side if at in kept else 1 for at, side in enumerate(x.shape)]
        other = values(draw, x, *shape[draw(st.integers(0, min(kept, default=0))) :])
        if draw(st.booleans()) and other.ndim == 4:
            other = other.to(memory_format=torch.channels_last)
    if function is not Tensor.mul and draw(st.sampled_from([False, False, True])):
        # Torch still accepts the factor before the tensor, too.
        return draw(
            st.sampled_from(
                [Call(function, (x, other), {"alpha": 2}), Call(function, (x, 2, other))]
            )
        )
    return Call(function, (x, other) if draw(st.booleans()) else (other, x))


@st.composite
def softmax(draw: st.DrawFn) -> Call:
    x, dim = draw(inputs()), draw(st.integers(-6, 5))
    dtype = draw(st.sampled_from([None, torch.float64]))
    function = draw(st.sampled_from([F.softmax, F.log_softmax, torch.softmax, Tensor.softmax]))
    if draw(st.booleans()):
        return Call(function, (x,), {"dim": dim, "dtype": dtype})
    python = function in {F.softmax, F.log_softmax}
    return Call(function, (x, dim, 3, dtype) if python else (x, dim, dtype))


@st.composite
def normalize(draw: st.DrawFn) -> Call:
    x, dim = draw(inputs()), draw(st.integers(-6, 5))
    out = {"out": torch.empty(0, dtype=draw(DTYPES))} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        return Call(F.normalize, (x, 2.0, dim), out)
    return Call(F.normalize, (x,), {"dim": dim, **out})


@st.composite
def dropout(draw: st.DrawFn) -> Call:
    x, p, training = draw(inputs()), draw(st.sampled_from([0.0, 0.3, 1.0, 1.5])), st.booleans()
    if draw(st.booleans()):
        return Call(F.dropout, (x, p, draw(training), draw(st.booleans())))
    return Call(F.dropout, (x,), {"p": p, "training": draw(training)})


@st.composite
def batch_norm(draw: st.DrawFn) -> Call:
    x = draw(inputs(st.integers(2, 5)))
    channels = x.shape[1]
    mean, var = values(draw, x, channels), values(draw, x, channels)
    weight, bias = (maybe(draw, lambda: values(draw, x, channels)) for _ in range(2))
    if draw(st.booleans()):
        return Call(F.batch_norm, (x, mean, var, weight, bias, False, 0.1, 1e-3))
    return Call(F.batch_norm, (x, mean, var), {"weight": weight, "bias": bias, "eps": 1e-3})


@st.composite
def layer_norm(draw: st.DrawFn) -> Call:
    x = draw(inputs())
    shape = tuple(off(draw, side) for side in x.shape[-draw(st.integers(1, x.ndim)) :])
    weight, bias = (maybe(draw, lambda: values(draw, x, *shape)) for _ in range(2))
    if draw(st.booleans()):
        return Call(F.layer_norm, (x, shape, weight, bias, 1e-3))
    return Call(F.layer_norm, (x,), {"normalized_shape": list(shape), "weight": weight})


@st.composite
def group_norm(draw: st.DrawFn) -> Call:
    x = draw(inputs(st.integers(2, 5)))
    groups = draw(st.sampled_from([1, 2, 3, 4]))
    weight, bias = (maybe(draw, lambda: values(draw, x, x.shape[1])) for _ in range(2))
    if draw(st.booleans()):
        return Call(F.group_norm, (x, groups, weight, bias))
    return Call(F.group_norm, (x,), {"num_groups": groups, "bias": bias})


@st.composite
def linear(draw: st.DrawFn) -> Call:
    x, out = draw(inputs()), draw(SIDES)
    weight = values(draw, x, out, x.shape[-1])
    bias = maybe(draw, lambda: values(draw, x, out))
    if draw(st.booleans()):
        return Call(F.linear, (x, weight, bias))
    return Call(F.linear, (), {"input": x, "weight": weight, "bias": bias})


@st.composite
def conv2d(draw: st.DrawFn) -> Call:
    x = draw(inputs(st.sampled_from([3, 4, 4, 4, 4])))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels = x.shape[-3]
    out, kernel = groups * draw(SIDES), [draw(st.integers(1, 3)) for _ in range(2)]
    groups = groups if channels % groups == 0 else 1
    weight = values(draw, x, out, max(1, channels // groups), *kernel)
    if draw(st.booleans()):
        weight = weight.to(memory_format=torch.channels_last)
    bias = maybe(draw, lambda: values(draw, x, out))
    few = st.integers(1, 2)
    forms = st.one_of(
        few, st.tuples(few), st.tuples(few, few), st.lists(few, min_size=2, max_size=2)
    )
    stride, padding, dilation = draw(forms), draw(forms), draw(forms)
    if draw(st.integers(0, 9)) == 0:
        stride = draw(st.sampled_from([0, (1, 0), -1]))
    if draw(st.integers(0, 9)) == 0:
        padding = draw(st.sampled_from(["same", "valid", -1]))
    if draw(st.booleans()):
        return Call(F.conv2d, (x, weight, bias, stride, padding, dilation, groups))
    named = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Call(F.conv2d, (x,), {"weight": weight, "bias": bias, **named})


@st.composite
def attention(draw: st.DrawFn) -> Call:
    lead = [draw(SIDES) for _ in range(draw(st.sampled_from([1, 2, 2, 2])))]
    queries, keys, width, other = (draw(SIDES) for _ in range(4))
    query = torch.rand(*lead, queries, width).to(draw(DTYPES))
    key = values(draw, query, *lead, keys, width)
    value = values(draw, query, *lead, keys, other)
    shapes = [(queries, keys), (1, keys), (lead[0], 1, queries, keys), (*lead, queries, keys)]
    mask = draw(
        st.sampled_from(
            [
                None,
                None,
                torch.ones(draw(st.sampled_from(shapes)), dtype=torch.bool),
                torch.zeros(draw(st.sampled_from(shapes)), dtype=query.dtype),
                values(draw, query, queries, keys),
            ]
        )
    )
    causal = draw(st.booleans())
    if draw(st.booleans()):
        return Call(F.scaled_dot_product_attention, (query, key, value, mask, 0.0, causal))
    named = {"attn_mask": mask, "is_causal": causal, "scale": draw(st.sampled_from([None, 0.5]))}
    return Call(F.scaled_dot_product_attention, (query, key, value), named)


@st.composite
def projected_attention(draw: st.DrawFn) -> Call:
    """``multi_head_attention_forward``, as CLIP's pooling and others call it."""
    heads, out = draw(st.sampled_from([1, 2])), draw(SIDES)
    width, batch = heads * draw(st.integers(1, 4)), draw(SIDES)
    length, keys = draw(SIDES), draw(SIDES)
    batched = draw(st.sampled_from([True, True, True, False]))
    dtype = draw(DTYPES)
    query = torch.rand(*((length, batch) if batched else (length,)), off(draw, width)).to(dtype)
    other = draw(st.booleans())
    key = torch.rand(keys, *query.shape[1:]).to(dtype) if other else query
    weights = draw(st.sampled_from([None, True, False, False, False]))
    separate = draw(st.booleans())
    square = [values(draw, query, width, width) for _ in range(3)]
    extra: dict[str, Any] = {} if weights is None else {"need_weights": weights}
    if draw(st.booleans()):
        extra["average_attn_weights"] = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        extra["attn_mask"] = torch.zeros(length, len(key), dtype=torch.bool)
    if draw(st.integers(0, 3)) == 0:
        padding = (batch, len(key)) if batched else (len(key),)
        extra["key_padding_mask"] = torch.zeros(padding, dtype=torch.bool)
    if separate:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        extra |= {"use_separate_proj_weight": True, **dict(zip(names, square, strict=True))}
    added = [torch.rand(1, 1, width).to(dtype)] * 2 if draw(st.integers(0, 3)) == 0 else [None] * 2
    positional = (
        query,
        key,
        key,
        width,
        heads,
        None if separate else values(draw, query, 3 * width, width),
        maybe(draw, lambda: values(draw, query, 3 * width)),
        *added,
        draw(st.booleans()),
        0.0,
        values(draw, query, out, width),
        maybe(draw, lambda: values(draw, query, out)),
    )
    extra["training"] = draw(st.booleans())
    if draw(st.booleans()):
        return Call(F.multi_head_attention_forward, positional, extra)
    names = (
        "query",
        "key",
        "value",
        "embed_dim_to_check",
        "num_heads",
        "in_proj_weight",
        "in_proj_bias",
        "bias_k",
        "bias_v",
        "add_zero_attn",
        "dropout_p",
        "out_proj_weight",
        "out_proj_bias",
    )
    named = {**dict(zip(names, positional, strict=True)), **extra}
    return Call(F.multi_head_attention_forward, (), named)


@st.composite
def attention_module(draw: st.DrawFn) -> Call:
    """``nn.MultiheadAttention`` in all its forms."""
    heads = draw(st.sampled_from([1, 2]))
    width, own = heads * draw(st.integers(1, 4)), draw(st.sampled_from([None, 3]))
    first, batched = draw(st.booleans()), draw(st.booleans())
    module = nn.MultiheadAttention(
        width,
        heads,
        bias=draw(st.booleans()),
        add_bias_kv=draw(st.booleans()),
        add_zero_attn=draw(st.booleans()),
        kdim=own,
        vdim=own,
        batch_first=first,
    ).eval()
    length, keys, batch = draw(SIDES), draw(SIDES), draw(SIDES)

    def tokens(count: int, wide: int) -> Tensor:
        return torch.rand(
            *((batch, count) if first else (count, batch)) if batched else (count,), wide
        )

    query = tokens(length, width)
    key = query if own is None and draw(st.booleans()) else tokens(keys, own or width)
    extra = {"need_weights": draw(st.booleans()), "average_attn_weights": draw(st.booleans())}
    return Call(_Calling(module), (query, key, key), extra)


class _Calling:
    """A module that follows its arguments to the meta device."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Tensor, **kwargs: Any) -> Any:
        return self.module.to(args[0].device)(*args, **kwargs)


CALLS = {
    "pointwise": pointwise(),
    "arithmetic": arithmetic(),
    "softmax": softmax(),
    "normalize": normalize(),
    "dropout": dropout(),
    "batch norm": batch_norm(),
    "layer norm": layer_norm(),
    "group norm": group_norm(),
    "linear": linear(),
    "conv2d": conv2d(),
    "attention": attention(),
    "projected attention": projected_attention(),
    "attention module": attention_module(),
}
