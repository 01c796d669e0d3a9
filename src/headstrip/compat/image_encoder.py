"""Drop-in replacements for the code of WBCAtt (NeurIPS 2023).

They replace functions in ``submission/traineval.py`` and ``submission/attribute_predictor.py`` of
apple2373/wbcatt on GitHub.
"""

from __future__ import annotations

from torch import nn

from headstrip.compat.names import name_of
from headstrip.encoder.predictors import init_predictors as init_predictors
from headstrip.factory.construction import build_stripped
from headstrip.factory.instantiate import BuildOptions
from headstrip.factory.measure import width_of_built
from headstrip.weights.reading import ReadOptions


def get_image_encoder(name: str, pretrained: bool = True) -> tuple[nn.Module, int]:
    """Return a network without its head, and its width, as WBCAtt's function does.

    The network is that of its library with ``nn.Identity`` in place of the head, in train mode. It
    has the same ``state_dict`` keys, so a checkpoint of a WBCAtt project loads strictly. For the
    names in WBCAtt's code and ``pretrained=False``, the parameters after a seed are bit for bit
    the same. Unlike WBCAtt's function, this one sends no batch through the network: BatchNorm
    statistics and random number generators stay as the constructor left them. The parameters are
    copies, so they do not change when the weights file does.

    Args:
        name: Any name that ``build_encoder`` takes, or the form ``timm.NAME`` of WBCAtt's later
            code.
        pretrained: Whether to load the default weights.

    Returns:
        The module, which maps (N, *input) to (N, dim), and dim.

    Raises:
        ValueError: No installed source has a backbone of that name.
        WeightsError: The backbone has no pretrained weights, or they cannot be loaded.

    Example:
        >>> encoder, dim = get_image_encoder("resnet18", pretrained=False)
        >>> dim
        512
    """
    # A plain module cannot notice that its mapped file was rewritten, so read it into memory.
    build_options = BuildOptions(ReadOptions(mapped=False))
    built = build_stripped(
        name_of(name), weights="DEFAULT" if pretrained else None, build_options=build_options
    )
    backbone = built.stripped.backbone.train()
    return backbone, width_of_built(built, built.input_shape)
