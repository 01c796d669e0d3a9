"""The meta device without what it wastes: layers answered by shape alone, no values to set.

On meta a layer computes nothing, and yet norms, activations and attention go through Python
decompositions of milliseconds each: half a second for a large ViT. What is answered here has the
shape and dtype that torch gives; whatever does not fit is left to torch, which has the error to
raise.
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


class ByShape(TorchFunctionMode):
    """Answers eval-mode layers on meta tensors without computing.

    Tensors that a forward makes on the default device are made on meta, where the others are.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer one call, or pass it on to torch."""
        kwargs = kwargs or {}
        if func in _MAKERS:
            return func(*args, **_placed(kwargs))
        answer = _ANSWERS.get(func) if args and _is_meta(args[0]) else None
        found = answer(*args, **kwargs) if answer else None
        return func(*args, **kwargs) if found is None else found


def twin(x: Tensor) -> Tensor:
    """Return a tensor without memory that has the shape, the strides and the dtype of ``x``."""
    # `empty_like` gets to the meta device through Python, which takes ten times as long.
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return torch.empty_like(x, device="meta")


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype in _DTYPES


def _are_like(x: Tensor, others: Iterable[Any]) -> bool:
    """Whether all are on meta and of the dtype of ``x``; None stands for what is left out."""
    return all(one is None or (_is_meta(one) and one.dtype == x.dtype) for one in others)


def _pointwise(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    # A tensor, `out` for example, or a dtype asks for something else than the input's twin.
    if any(isinstance(value, (Tensor, torch.dtype)) for value in (*args, *kwargs.values())):
        return None
    # The flag may stand in any place; writing in place or not has the same shape either way.
    return x if kwargs.get("inplace") else twin(x)


def _softmax(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor | None:
    # Its output is contiguous, whatever the input is.
    found = _pointwise(x, *args, **kwargs) if _is_axis(x, dim) else None
    return None if found is None else torch.empty(x.shape, dtype=x.dtype, device="meta")


def _normalize(
    x: Tensor, p: Any = 2.0, dim: Any = 1, *args: Any, **kwargs: Any
) -> Tensor | None:  # fmt: skip
    return _pointwise(x, *args, **kwargs) if _is_axis(x, dim) else None


def _is_axis(x: Tensor, dim: Any) -> bool:
    return isinstance(dim, int) and -x.ndim <= dim < x.ndim


def _dropout(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:  # fmt: skip
    if not 0 <= p <= 1:
        return None
    # In eval mode torch gives the input itself.
    return twin(x) if training and not inplace else x


def _batch_norm(
    x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    *args: Any, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    own = (running_mean, running_var, weight, bias)
    if x.ndim < 2 or training or running_mean is None or running_var is None:
        return None
    fits = all(one is None or one.shape == (x.shape[1],) for one in own)
    return twin(x) if fits and _are_like(x, own) else None


def _layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, *args: Any, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    shape, own = tuple(normalized_shape), (weight, bias)
    fits = shape and tuple(x.shape[-len(shape) :]) == shape
    if not fits or not all(one is None or tuple(one.shape) == shape for one in own):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if _are_like(x, own) else None


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    *args: Any, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    own = (weight, bias)
    if x.ndim != 4 or num_groups < 1 or x.shape[1] % num_groups or x.numel() == num_groups:
        return None
    plain = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    fits = plain and all(one is None or one.shape == (x.shape[1],) for one in own)
    return twin(x) if fits and _are_like(x, own) else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _are_like(x, (weight, bias)) or weight.ndim != 2 or x.ndim < 2:
        return None
    if x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
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
    last = torch.channels_last
    order = torch.contiguous_format if x.is_contiguous() else last
    if order is last and not x.is_contiguous(memory_format=last):
        return None
    shape = (x.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=order)


def _pair(value: Any) -> tuple[int, int] | None:
    """Return a number for each axis; None for what is no such number, ``"same"`` for example."""
    if isinstance(value, int):
        return value, value
    if not isinstance(value, (tuple, list)) or len(value) not in {1, 2}:
        return None
    return value[0], value[-1]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
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
    """Whether a mask goes with all scores, of shape (N, heads, length, length of the keys)."""
    scores = (*query.shape[:-1], key.shape[-2])
    fits = mask.ndim >= 2 and all(
        one in {1, side} for one, side in zip(mask.shape[::-1], scores[::-1], strict=False)
    )
    return mask.ndim <= 4 and fits and mask.is_meta and mask.dtype in {torch.bool, query.dtype}


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None, **kwargs: Any,
) -> Any:  # fmt: skip
    # Length, batch and width. With more than that to see to, torch answers.
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
    # The last projection may be to another width, as in CLIP's pooling.
    shape = (*query.shape[:2], out_proj_weight.shape[0])
    return (query.new_empty(shape), None) if fits else None


_POINTWISE = (
    F.relu, F.relu6, F.elu, F.selu, F.celu, F.leaky_relu, F.gelu, F.silu, F.mish, F.hardtanh,
    F.hardswish, F.hardsigmoid, F.softplus, F.sigmoid, F.tanh, torch.relu, torch.sigmoid,
    torch.tanh, Tensor.relu, Tensor.sigmoid, Tensor.tanh,
)  # fmt: skip
_ANSWERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
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
    """Have constructors build on the meta device, and spend no time on values."""
    with _OnMeta():
        yield


class NoValues(TorchFunctionMode):
    """Leave out what would only set the values of tensors that have no memory."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer calls that only change values, and let all others pass."""
        if func in _VALUES:
            target = args[0] if args else next(iter((kwargs or {}).values()))
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **(kwargs or {}))


class _OnMeta(NoValues):
    """Make new tensors on the meta device too.

    ``torch.device("meta")`` does as much; one mode instead of two halves what a constructor costs.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Place what makes tensors, and leave the rest to the other mode."""
        if func in _MAKERS:
            return func(*args, **_placed(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def _placed(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs if kwargs.get("device") is not None else {**kwargs, "device": "meta"}


# What `torch.device` as a context acts on, by the documentation of `torch.set_default_device`.
_MAKERS = {
    torch.empty, torch.empty_permuted, torch.empty_strided, torch.ones, torch.zeros, torch.full,
    torch.arange, torch.linspace, torch.logspace, torch.eye, torch.rand, torch.randn,
    torch.randint, torch.randperm, torch.tensor, torch.as_tensor, torch.asarray,
    torch.scalar_tensor, torch.tril_indices, torch.triu_indices,
    torch.bartlett_window, torch.blackman_window, torch.hamming_window, torch.hann_window,
    torch.kaiser_window, torch.sparse_coo_tensor, torch.sparse_csr_tensor,
    torch.sparse_csc_tensor, torch.sparse_bsr_tensor, torch.sparse_bsc_tensor,
    torch.sparse_compressed_tensor,
}  # fmt: skip
_VALUES = {
    init.uniform_, init.normal_, init.constant_, init.kaiming_uniform_, init.kaiming_normal_,
    *(
        getattr(Tensor, name)
        for name in (
            "normal_", "uniform_", "erfinv_", "clamp_", "zero_", "fill_", "mul_", "add_", "div_",
            "sub_", "trunc_", "bernoulli_", "exponential_",
        )
    ),
}  # fmt: skip
