"""Find the floating-point type that a network computes with."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def computing_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype of most parameter values of a network, which is the dtype of its input.

    Some parameters, such as scales and norms, may have a higher precision than the others.

    Returns:
        The dtype; float32 if the network has no floating-point parameter.
    """
    counts: Counter[torch.dtype] = Counter()
    # `parameters()` also looks for shared parameters, which takes longer.
    registers = [module._parameters.values() for module in network.modules()]
    for parameter in chain.from_iterable(registers):
        if parameter is None or is_lazy(parameter) or not parameter.is_floating_point():
            continue
        counts[parameter.dtype] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32
