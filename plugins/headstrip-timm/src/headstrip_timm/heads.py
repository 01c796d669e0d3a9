"""Taking the head off any of timm's networks.

The embedding is what timm itself calls ``pre_logits``: ``forward_head(..., pre_logits=True)``, with
the pooling, the norms and the layers between them that the network has before its classifier. For
most networks the classifier is one module that ``get_classifier`` names. The rest:

- A 1x1 convolution (``resnetv2``, ``dla``, ``dpn``), a head with a norm of its own
  (``efficientvit_msra``, ``shvit``), two heads on one vector (``efficientformer``, ``levit``,
  ``swiftformer`` and their kin) and one head a branch or a stage (``crossvit``, ``efficientvim``)
  are kept as one module: exact.
- CLIP's ResNets (``byobnet``) classify every position and then pick one, so that other numbers are
  rounded together: ``rounding``.
- Distilled DeiT and PiT (``deit``, ``pit``) classify two tokens with a head each. The embedding is
  the one that timm pools of them, their mean: ``declared``.
- VOLO (``volo``) adds the largest logit of all positions. The embedding is the one that timm pools,
  the class token: ``declared``.
- Networks without a classifier are ``headless``. The encoders whose output has positions
  (``*_enc``) are given the mean over them, as timm's classifiers on the same encoders have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from timm.layers.classifier import ClassifierHead
from torch import Tensor, nn

from headstrip import HeadNotFoundError, Stripped, detach
from headstrip_timm.adapters import (
    AveragedHeads,
    BranchHeads,
    ConvolutionHead,
    MeanOverPositions,
    StageHeads,
    pooled,
)
from headstrip_timm.families import FAMILIES as FAMILIES
from headstrip_timm.families import family_of as family_of
from headstrip_timm.families import recognise
from headstrip_timm.places import POOLS_AFTER, check_places, head_paths, is_off, refuse_unpooled

_ENCODERS = {
    "DeepseekVitEncoder": False,
    "Gemma4VitEncoder": False,
    "MobileNetV5Encoder": True,
    "Qwen3VitEncoder": False,
}
"""Networks that have no pooling of their own, and whether their channels come first."""

_MAPS = {"DLA", "DPN"}


def strip(
    model: nn.Module,
    family: str,
    *,
    built: bool = False,
    input_shape: tuple[int, ...] | None = None,
) -> Stripped:
    """Take the head off a network of timm, in place.

    Args:
        model: The network.
        family: Name of its module in timm.
        built: Whether timm has just built it by name. One without a head is then ``headless``,
            whereas of a user's own network a head that is off already is an error.
        input_shape: Input without the batch axis, where it is known.

    Raises:
        HeadNotFoundError: It is no network of that family, not as timm builds it, or it has no
            head. It is unchanged then.
    """
    recognise(model, family)
    kind = type(model).__name__
    if kind in _ENCODERS:
        return replace(_encoder(model, built), input_shape=input_shape)
    refuse_unpooled(model)
    paths = head_paths(model)
    if built and all(is_off(model.get_submodule(path)) for path in paths):
        return Stripped(model, None, (), "headless", input_shape)
    check_places(model, paths)
    stripped = _TAKERS.get(kind, _one)(model, paths)
    return replace(stripped, input_shape=input_shape)


def reference(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the embedding of an untouched network as timm's own pooling does.

    Args:
        model: The network, in eval mode.
        x: Input of shape (N, *input).

    Returns:
        Tensor of shape (N, dim).
    """
    network = cast("Any", model)
    kind = type(model).__name__
    if kind in _ENCODERS:
        return pooled(network(x), channels_first=_ENCODERS[kind])
    embedding: Tensor = network.forward_head(network.forward_features(x), pre_logits=True)
    return embedding


def _encoder(model: nn.Module, built: bool) -> Stripped:
    kind = type(model).__name__
    if not built:
        raise HeadNotFoundError(
            f"A {kind} has no head that could be taken off. Use the network as it is."
        )
    mean = MeanOverPositions(model, channels_first=_ENCODERS[kind])
    return Stripped(mean, None, (), "headless")


def _take(model: nn.Module, path: str) -> nn.Module:
    """Put ``nn.Identity`` in the place of a head, and return the head."""
    return cast("nn.Module", detach(model, path, kind=nn.Module).head)


def _one(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off one classifier."""
    (path,) = paths
    parent = model.get_submodule(path.rpartition(".")[0])
    head = _take(model, path)
    if isinstance(parent, POOLS_AFTER):
        return Stripped(model, head, paths, "rounding")
    reads_maps = type(model).__name__ in _MAPS or (
        isinstance(parent, ClassifierHead) and parent.use_conv
    )
    return Stripped(model, ConvolutionHead(head) if reads_maps else head, paths)


def _averaged(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off two heads on one vector, of whose logits timm gives the mean."""
    heads = [_take(model, path) for path in paths]
    return Stripped(model, AveragedHeads(*heads) if len(heads) > 1 else heads[0], paths)


def _two_tokens(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off the heads of two tokens: without them timm gives the tokens' mean."""
    heads = [_take(model, path) for path in paths]
    if len(heads) == 1:
        return Stripped(model, heads[0], paths)
    return Stripped(model, None, paths, "declared")


def _with_auxiliary(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off VOLO's two heads: the second adds the largest logit of all positions."""
    head = _take(model, "head")
    if len(paths) == 1:
        return Stripped(model, head, paths)
    # The network goes past this head where it is None, as timm's reset_classifier leaves it.
    cast("Any", model).aux_head = None
    return Stripped(model, None, paths, "declared")


def _branches(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off CrossViT's heads: without them timm joins the tokens of its branches."""
    heads = [_take(model, path) for path in paths]
    return Stripped(model, BranchHeads(heads, cast("Any", model).embed_dim), paths)


def _stages(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Take off EfficientViM's heads: without them timm joins the features of its stages."""
    network = cast("Any", model)
    widths = (*network.embed_dim, network.embed_dim[-1])
    parts, lists = [], ("heads", "heads_dist") if hasattr(model, "heads_dist") else ("heads",)
    for name in lists:
        weights = name.replace("heads", "weights")
        heads = [_take(model, path) for path in paths if path.startswith(f"{name}.")]
        parts.append(StageHeads(heads, getattr(model, weights), widths))
        delattr(model, weights)
        paths = (*paths, weights)
    # It says to the network's forward that there is nothing to weigh.
    network.num_classes = 0
    return Stripped(model, AveragedHeads(*parts) if len(parts) > 1 else parts[0], paths)


_TAKERS: dict[str, Callable[[nn.Module, tuple[str, ...]], Stripped]] = {
    "CrossVit": _branches,
    "EfficientFormer": _averaged,
    "EfficientFormerV2": _averaged,
    "EfficientViM": _stages,
    "EfficientViMDistilled": _stages,
    "LevitDistilled": _averaged,
    "PoolingVisionTransformer": _two_tokens,
    "SwiftFormer": _averaged,
    "VOLO": _with_auxiliary,
    "VisionTransformerDistilled": _two_tokens,
}
