"""Decide which parameters of a network get weight decay: only its matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor, nn

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_NAMED_NORM = re.compile(r"norm|grn", re.IGNORECASE)
"""Classes of norms that libraries write themselves: ``RMSNorm``, ``ConvNextV2GRN``, ..."""

_OTHER = re.compile(r"bias|token|pos|embed|query|probe|latent|temperature|gamma|scale")
"""Names of parameters that do not multiply an input as a matrix does."""

_WEIGHT = re.compile(r"weight|.*_weight|original\d*")
_MATRICES = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


def is_matrix(name: str, parameter: Tensor, owner: nn.Module) -> bool:
    """Whether a parameter is the matrix of a linear layer, a convolution or the like.

    Args:
        name: Its name; the part after the last dot counts.
        parameter: The parameter.
        owner: The module that has it.

    Returns:
        False for parameters of norms, biases, scales, class and position tokens, tables of
        embeddings, and every parameter with one axis.

    Example:
        >>> layer = nn.Linear(3, 1)
        >>> is_matrix("weight", layer.weight, layer), is_matrix("bias", layer.bias, layer)
        (True, False)
    """
    is_norm = isinstance(owner, _NORMS) or _NAMED_NORM.search(type(owner).__name__)
    if parameter.ndim < 2 or is_norm or isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return False
    own = name.rpartition(".")[2]
    if isinstance(owner, _MATRICES) and _WEIGHT.fullmatch(own):
        # A linear layer with one output has a matrix too.
        return True
    has_axes = sum(size > 1 for size in parameter.shape) > 1
    return has_axes and (bool(_WEIGHT.fullmatch(own)) or not _OTHER.search(own))


def names_without_decay(network: nn.Module) -> Iterator[str]:
    """Yield the names of parameters that parts of a network exempt from weight decay themselves.

    Networks of timm have a method ``no_weight_decay`` that returns them.
    """
    for path, module in network.named_modules():
        method = getattr(module, "no_weight_decay", None)
        if callable(method):
            yield from (f"{path}.{name}" if path else name for name in method())
