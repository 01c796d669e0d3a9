"""Random values with which every parameter and running statistic affects the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_POOL = 1_000_003
_LEAST = 1 << 14


def perturb(model: nn.Module) -> None:
    """Change every parameter and running statistic, in place, so that each affects the output.

    Many heads and residual branches are initialised with zeros; then a comparison of logits would
    accept any embedding. The new values are close to the initial ones, and variances stay above
    zero. They come from torch's global generator.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> perturb(layer)
        >>> bool((layer.weight != 0).all())
        True
    """
    persistent = model.state_dict().keys()
    # The twin network gets its values from the state dict, so other buffers must not change.
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in persistent]
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *buffers):
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            if name.endswith("running_var"):
                tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.25))
                continue
            scale = float(tensor.std()) if tensor.numel() > 1 else 0.0
            # A mask of infinities has no finite scale, so it gets no noise.
            if math.isfinite(scale):
                tensor.add_(torch.randn_like(tensor), alpha=0.1 * scale if scale > 0 else 0.02)


class FastRandom(TorchFunctionMode):
    """A torch mode that fills large tensors by repeating the same million random values.

    Drawing the initial values of a network with a billion parameters takes minutes, and the checks
    need only values with the right spread.
    """

    def __init__(self) -> None:
        """Draw the values from torch's global generator."""
        super().__init__()
        self._normal, self._uniform = torch.randn(_POOL), torch.rand(_POOL)
        self._start = 0

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace three calls for large tensors, and run all others."""
        kwargs = kwargs or {}
        target = args[0] if args else None
        if func not in _RANDOM or not isinstance(target, Tensor) or not _is_large(target):
            return func(*args, **kwargs)
        if func is torch.randn_like:
            return self._fill(torch.empty_like(target), self._normal)
        low, high = ("mean", "std") if func is Tensor.normal_ else ("from", "to")
        first = args[1] if len(args) > 1 else kwargs.get(low, kwargs.get("a", 0.0))
        second = args[2] if len(args) > 2 else kwargs.get(high, kwargs.get("b", 1.0))
        if func is Tensor.normal_:
            return self._fill(target, self._normal).mul_(second).add_(first)
        return self._fill(target, self._uniform).mul_(second - first).add_(first)

    def _fill(self, target: Tensor, pool: Tensor) -> Tensor:
        flat = target.view(-1)
        # Each tensor starts at another position in the pool, so that layers differ.
        self._start = (self._start + 7919) % _POOL
        filled = 0
        for chunk in (pool[self._start :], *[pool] * (flat.numel() // _POOL + 1)):
            size = min(len(chunk), flat.numel() - filled)
            flat[filled : filled + size] = chunk[:size]
            filled += size
        return target


_RANDOM = {torch.randn_like, Tensor.normal_, Tensor.uniform_}


def _is_large(tensor: Tensor) -> bool:
    return (
        tensor.numel() >= _LEAST
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
    )
