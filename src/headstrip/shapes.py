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

_ELEMENTWISE = frozenset({
    F.relu, F.relu6, F.elu, F.selu, F.celu, F.leaky_relu, F.gelu, F.silu, F.mish, F.hardtanh,
    F.hardswish, F.hardsigmoid, F.softplus, F.softmax, F.log_softmax, F.normalize, F.dropout,
    F.dropout2d, F.dropout3d, F.alpha_dropout, torch.relu, torch.sigmoid, torch.tanh,
    torch.softmax, torch.nn.functional.sigmoid, torch.nn.functional.tanh, Tensor.relu,
    Tensor.sigmoid, Tensor.tanh, Tensor.softmax,
})  # fmt: skip


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
    return isinstance(value, Tensor) and value.is_meta and value.is_floating_point()


def _elementwise(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    # A dtype, or an `out`, asks for something else than the input's twin.
    if kwargs.get("dtype") is not None or kwargs.get("out") is not None:
        return None
    # The flag may stand in any place; writing in place or not has the same shape either way.
    return x if kwargs.get("inplace") else twin(x)


def _batch_norm(
    x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    *args: Any, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    own = (running_mean, running_var, weight, bias)
    fits = x.ndim > 1 and all(one is None or one.shape == (x.shape[1],) for one in own)
    return twin(x) if fits and not training and running_mean is not None else None


def _layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, *args: Any,
    **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    shape = tuple(normalized_shape)
    fits = shape and tuple(x.shape[-len(shape) :]) == shape
    if not fits or (weight is not None and (tuple(weight.shape) != shape)):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _group_norm(x: Tensor, num_groups: int, *args: Any, **kwargs: Any) -> Tensor | None:
    fits = x.ndim > 1 and x.shape[1] % num_groups == 0
    return twin(x) if fits and x.ndim == 4 else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _is_meta(weight) or weight.ndim != 2 or x.ndim < 2:
        return None
    fits = x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
    same = x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype)
    if not fits or not same:
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    if x.ndim != 4 or not _is_meta(weight) or weight.ndim != 4 or isinstance(padding, str):
        return None
    fits = x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    same = x.dtype == weight.dtype and (
        bias is None or (bias.shape == weight.shape[:1] and bias.dtype == x.dtype)
    )
    sides = [
        (side + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for side, kernel, jump, pad, step in zip(
            x.shape[2:], weight.shape[2:], *map(_pair, (stride, padding, dilation)), strict=True
        )
    ]
    if not fits or not same or min(sides) < 1:
        return None
    last = torch.channels_last
    order = torch.contiguous_format if x.is_contiguous() else last
    if order is last and not x.is_contiguous(memory_format=last):
        return None
    shape = (x.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=order)


def _pair(value: Any) -> tuple[int, int]:
    one, other = (value, value) if isinstance(value, int) else value * (2 // len(value))
    return one, other


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any,
    **kwargs: Any,
) -> Any:  # fmt: skip
    fits = (
        query.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
        and query.dtype == key.dtype == value.dtype
        and (attn_mask is None or attn_mask.shape[-2:] == (query.shape[-2], key.shape[-2]))
    )
    return query.new_empty((*query.shape[:-1], value.shape[-1])) if fits else None


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, *args: Any, **kwargs: Any
) -> Any:
    # Length, batch and width; with the weights asked for, torch has more to answer.
    fits = query.ndim == 3 and query.shape == key.shape == value.shape
    if not fits or query.shape[-1] != embed_dim or kwargs.get("need_weights", True):
        return None
    return query.new_empty(query.shape), None


_ANSWERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
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
