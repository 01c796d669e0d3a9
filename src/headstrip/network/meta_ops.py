"""Make the meta device fast: compute only the shapes of layers, and set no values.

A layer computes nothing on meta, but torch runs norms, activations and attention through Python
decompositions that take milliseconds each: half a second for a large ViT. The functions here return
an empty tensor with the shape and dtype that torch would return. If the arguments do not fit, they
return None, and torch handles the call and raises the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def _functions(owner: Any, names: str) -> frozenset[Any]:
    """Return the functions of a module or a class, by names separated by spaces."""
    return frozenset(getattr(owner, name) for name in names.split())


class ByShape(TorchFunctionMode):
    """A torch mode that returns the shapes of eval-mode layers on meta tensors directly.

    Tensors that a forward pass creates on the default device are created on meta instead.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Handle one call, or pass it to torch."""
        kwargs = kwargs or {}
        if func in _CREATORS:
            return func(*args, **_on_meta(kwargs))
        shape_of = _SHAPE_FUNCTIONS.get(func) if args and _is_meta(args[0]) else None
        found = shape_of(*args, **kwargs) if shape_of else None
        return func(*args, **kwargs) if found is None else found


def twin(x: Tensor) -> Tensor:
    """Return a meta tensor with the shape, the strides and the dtype of ``x``."""
    # `empty_like` reaches the meta device through Python, which takes ten times as long.
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    if _is_dense(x):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return torch.empty_like(x, device="meta")


def _is_dense(x: Tensor) -> bool:
    """Return whether a tensor fills its memory without gaps, in any order of its axes."""
    size = 1
    for step, side in sorted(zip(x.stride(), x.shape, strict=True)):
        if side != 1 and step != size:
            return False
        size *= side
    return True


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype in _DTYPES


def _are_like(x: Tensor, others: Iterable[Any]) -> bool:
    """Return whether all tensors are on meta and have the dtype of ``x``. None is ignored."""
    return all(one is None or (_is_meta(one) and one.dtype == x.dtype) for one in others)


def _pointwise(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    # With another tensor, such as `out`, or a dtype, the result may differ from the input.
    if any(isinstance(value, (Tensor, torch.dtype)) for value in (*args, *kwargs.values())):
        return None
    # The shape is the same with and without `inplace`, wherever that argument is.
    return x if kwargs.get("inplace") else twin(x)


def _arithmetic(x: Tensor, other: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    """Handle operands of one shape, and a vector along one axis of the other operand."""
    if args or kwargs or not isinstance(other, Tensor) or not _are_like(x, (other,)):
        return None
    if x.shape == other.shape:
        # The first operand decides on the strides of the result, unless it has none for an axis.
        return twin(x) if 0 not in x.stride() else None
    small, large = (other, x) if other.numel() <= x.numel() else (x, other)
    is_vector = small.numel() == max(small.shape, default=1)
    # With channels last, axes of length 1 get the strides of the vector.
    plain = large.is_contiguous() or (_order(large) is not None and 1 not in large.shape)
    return twin(large) if is_vector and plain and _fits(small, large) else None


def _add_in_place(x: Tensor, other: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if args or kwargs or not isinstance(other, Tensor) or not _are_like(x, (other,)):
        return None
    return x if _order(x) is not None and _fits(other, x) else None


def _fits(small: Tensor, large: Tensor) -> bool:
    """Return whether a tensor broadcasts to the shape of another."""
    pairs = zip(small.shape[::-1], large.shape[::-1], strict=False)
    return small.ndim <= large.ndim and all(side in {1, whole} for side, whole in pairs)


def _order(x: Tensor) -> torch.memory_format | None:
    """Return the order of a tensor's memory; None for neither of the two that networks have."""
    if x.is_contiguous():
        return torch.contiguous_format
    last = torch.channels_last
    return last if x.ndim == 4 and x.is_contiguous(memory_format=last) else None


def _softmax(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor | None:
    # The output is contiguous even if the input is not.
    found = _pointwise(x, *args, **kwargs) if _is_axis(x, dim) else None
    return None if found is None else torch.empty(x.shape, dtype=x.dtype, device="meta")


def _normalize(x: Tensor, p: Any = 2.0, dim: Any = 1, *args: Any, **kwargs: Any) -> Tensor | None:
    return _pointwise(x, *args, **kwargs) if _is_axis(x, dim) else None


def _is_axis(x: Tensor, dim: Any) -> bool:
    return isinstance(dim, int) and -x.ndim <= dim < x.ndim


def _dropout(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:
    if not 0 <= p <= 1:
        return None
    # In eval mode torch returns the input itself.
    return twin(x) if training and not inplace else x


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Tensor | None:
    own = (running_mean, running_var, weight, bias)
    if x.ndim < 2 or training or running_mean is None or running_var is None:
        return None
    fits = all(one is None or one.shape == (x.shape[1],) for one in own)
    return twin(x) if fits and _are_like(x, own) else None


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor | None:
    shape, own = tuple(normalized_shape), (weight, bias)
    fits = shape and tuple(x.shape[-len(shape) :]) == shape
    if not fits or not all(one is None or tuple(one.shape) == shape for one in own):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if _are_like(x, own) else None


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor | None:
    own = (weight, bias)
    if x.ndim != 4 or num_groups < 1 or x.shape[1] % num_groups or x.numel() == num_groups:
        return None
    fits = all(one is None or one.shape == (x.shape[1],) for one in own)
    return twin(x) if fits and _order(x) is not None and _are_like(x, own) else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _are_like(x, (weight, bias)) or weight.ndim != 2 or x.ndim < 2:
        return None
    if x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if x.ndim != 4 or not _are_like(x, (weight, bias)) or weight.ndim != 4:
        return None
    jumps, pads, steps = _pair(stride), _pair(padding), _pair(dilation)
    if jumps is None or pads is None or steps is None:
        return None
    if min(*jumps, *steps, groups) < 1 or min(pads) < 0:
        return None
    fits = x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    sides = [
        (side + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for side, kernel, jump, pad, step in zip(
            x.shape[2:], weight.shape[2:], jumps, pads, steps, strict=True
        )
    ]
    if not fits or min(sides) < 1 or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    order = _order(x)
    if order is None:
        return None
    shape = (x.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=order)


def _pair(value: Any) -> tuple[int, int] | None:
    """Return one number for each axis; None for other values, such as ``"same"``."""
    if isinstance(value, int):
        return value, value
    if not isinstance(value, (tuple, list)) or len(value) not in {1, 2}:
        return None
    return value[0], value[-1]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Any:
    fits = (
        _are_like(query, (key, value))
        and query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
    )
    if not fits or (attn_mask is not None and (is_causal or not _is_mask(attn_mask, query, key))):
        return None
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def _is_mask(mask: Tensor, query: Tensor, key: Tensor) -> bool:
    """Return whether a mask broadcasts to the scores, of shape (N, heads, length, key length)."""
    scores = (*query.shape[:-1], key.shape[-2])
    fits = mask.ndim >= 2 and all(
        one in {1, side} for one, side in zip(mask.shape[::-1], scores[::-1], strict=False)
    )
    return mask.ndim <= 4 and fits and mask.is_meta and mask.dtype in {torch.bool, query.dtype}


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    # Handle only input of shape (length, batch, width) without masks and extra biases.
    rest = (bias_k, bias_v, key_padding_mask, attn_mask, static_k, static_v)
    if query.ndim != 3 or need_weights or any(one is not None for one in rest):
        return None
    width, separate = query.shape[-1], (q_proj_weight, k_proj_weight, v_proj_weight)
    projected = separate if use_separate_proj_weight else (in_proj_weight,)
    rows = width if use_separate_proj_weight else 3 * width
    fits = (
        query.shape == key.shape == value.shape
        and embed_dim_to_check == width
        and num_heads > 0
        and width % num_heads == 0
        and all(one is not None and one.shape == (rows, width) for one in projected)
        and (in_proj_bias is None or in_proj_bias.shape == (3 * width,))
        and out_proj_weight.ndim == 2
        and out_proj_weight.shape[1] == width
        and (out_proj_bias is None or out_proj_bias.shape == out_proj_weight.shape[:1])
        and _are_like(query, (key, value, *projected, in_proj_bias, out_proj_weight, out_proj_bias))
    )
    # The last projection may have another width, as in CLIP's pooling.
    shape = (*query.shape[:2], out_proj_weight.shape[0])
    return (query.new_empty(shape), None) if fits else None


_ACTIVATIONS = (
    "relu relu6 elu selu celu leaky_relu gelu silu mish hardtanh hardswish hardsigmoid softplus "
    "sigmoid tanh"
)
_POINTWISE = (
    *_functions(F, _ACTIVATIONS),
    *_functions(torch, "relu sigmoid tanh"),
    *_functions(Tensor, "relu sigmoid tanh"),
)
_SHAPE_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys((Tensor.add, Tensor.mul), _arithmetic),
    Tensor.add_: _add_in_place,
    **dict.fromkeys((F.softmax, F.log_softmax, torch.softmax, Tensor.softmax), _softmax),
    F.normalize: _normalize,
    F.dropout: _dropout,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
}


@contextmanager
def without_memory() -> Iterator[None]:
    """Make constructors build on the meta device and skip setting values."""
    with _OnMeta():
        yield


class NoValues(TorchFunctionMode):
    """A torch mode that skips calls that only set the values of meta tensors."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Skip a call that only changes values, and run any other call."""
        if func in _VALUES:
            target = args[0] if args else next(iter((kwargs or {}).values()))
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **(kwargs or {}))


class _OnMeta(NoValues):
    """A torch mode that also creates new tensors on the meta device.

    ``torch.device("meta")`` does the same, but one mode instead of two halves the time that a
    constructor takes.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Create tensors on meta, and let the base class handle other calls."""
        if func in _CREATORS:
            return func(*args, **_on_meta(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def _on_meta(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs if kwargs.get("device") is not None else {**kwargs, "device": "meta"}


# Functions that create tensors on the default device, from the docs of
# `torch.set_default_device`.
_CREATORS = _functions(
    torch,
    "empty empty_permuted empty_strided ones zeros full arange linspace logspace eye rand randn "
    "randint randperm tensor as_tensor asarray scalar_tensor tril_indices triu_indices "
    "bartlett_window blackman_window hamming_window hann_window kaiser_window sparse_coo_tensor "
    "sparse_csr_tensor sparse_csc_tensor sparse_bsr_tensor sparse_bsc_tensor "
    "sparse_compressed_tensor",
)
# Functions that only set the values of a tensor.
_VALUES = {
    *_functions(init, "uniform_ normal_ constant_ kaiming_uniform_ kaiming_normal_"),
    *_functions(
        Tensor,
        "normal_ uniform_ erfinv_ clamp_ zero_ fill_ mul_ add_ div_ sub_ trunc_ bernoulli_ "
        "exponential_",
    ),
}
