"""The floating-point type that a network computes with."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def computing_dtype(network: nn.Module) -> torch.dtype:
    """Return the type that most values of a network have, which is that of its input.

    A scale or a norm may be of a higher precision than all else.

    Returns:
        float32 where it has no floating-point parameter.
    """
    counts: Counter[torch.dtype] = Counter()
    # `parameters()` looks for those that are shared as well, which takes longer.
    registers = [module._parameters.values() for module in network.modules()]
    for parameter in chain.from_iterable(registers):
        if parameter is None or is_lazy(parameter) or not parameter.is_floating_point():
            continue
        counts[parameter.dtype] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32
