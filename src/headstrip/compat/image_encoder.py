"""Drop-ins for projects written with the code of WBCAtt (NeurIPS 2023).

The functions that this replaces stand in ``submission/traineval.py`` and
``submission/attribute_predictor.py`` of apple2373/wbcatt on GitHub.
"""

from __future__ import annotations

from torch import nn

from headstrip.encoder.predictors import init_predictors as init_predictors
from headstrip.factory.construction import Wish, build_stripped
from headstrip.factory.measure import width_of_built
from headstrip.weights.reading import Reading

_LATER_TIMM = "timm."


def get_image_encoder(name: str, pretrained: bool = True) -> tuple[nn.Module, int]:
    """Return a network without its head, and its width, as the notes' function does.

    The network is the plain one of its library with ``nn.Identity`` in the head's place, in
    train mode, with the same ``state_dict`` keys, so a checkpoint of such a project loads
    strictly. For the notes' own names and ``pretrained=False``, its parameters after a seed are
    bitwise theirs. Unlike there, no batch goes through it: BatchNorm statistics and the state of
    the random number generators stay as the constructor left them. Its parameters are copies:
    what becomes of the weights file afterwards changes nothing.

    Args:
        name: Any name that ``build_encoder`` takes, or the later form ``timm.NAME``.
        pretrained: Whether to load the default weights.

    Returns:
        The module, mapping (N, *input) to (N, dim), and dim.

    Raises:
        ValueError: The name is nobody's.
        WeightsError: It has no pretrained weights, or they cannot be had.

    Example:
        >>> encoder, dim = get_image_encoder("resnet18", pretrained=False)
        >>> dim
        512
    """
    if isinstance(name, str) and name.startswith(_LATER_TIMM):
        name = f"timm:{name.removeprefix(_LATER_TIMM)}"
    # Nobody would notice in a plain module that a file which it is mapped from is rewritten.
    wish = Wish(Reading(mapped=False))
    built = build_stripped(name, weights="DEFAULT" if pretrained else None, wish=wish)
    backbone = built.stripped.backbone.train()
    return backbone, width_of_built(built, built.input_shape)
