"""Remove the head from timm's networks.

The embedding is what timm calls ``pre_logits``: ``forward_head(..., pre_logits=True)``, with the
pooling, norms and layers that the network has before its classifier. For most networks,
``get_classifier`` returns the classifier, which is one module. The others:

- These heads are kept as one module, with the head fidelity ``exact``: a 1x1 convolution
  (``resnetv2``, ``dla``, ``dpn``), a head with its own norm (``efficientvit_msra``, ``shvit``), two
  heads on one vector (``efficientformer``, ``levit``, ``swiftformer`` and similar), and one head
  per branch or stage (``crossvit``, ``efficientvim``).
- CLIP's ResNets (``byobnet``) classify every position and then select one, so numbers are rounded
  in another order: ``rounding``.
- Distilled DeiT and PiT (``deit``, ``pit``) classify two tokens with one head each. The embedding
  is timm's pooling, the mean of the tokens: ``declared``.
- VOLO (``volo``) adds the largest logit of all positions. The embedding is timm's pooling, the
  class token: ``declared``.
- Networks without a classifier are ``headless``. The encoders whose output has positions
  (``*_enc``) get the mean over them, like timm's classifiers on the same encoders.
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
from headstrip_timm.head_paths import (
    POOLS_AFTER,
    check_heads,
    head_paths,
    is_removed,
    refuse_unpooled,
)

_ENCODERS = {
    "DeepseekVitEncoder": False,
    "Gemma4VitEncoder": False,
    "MobileNetV5Encoder": True,
    "Qwen3VitEncoder": False,
}
"""Networks without pooling, and whether their channels come first."""

_MAPS = {"DLA", "DPN"}


def strip(
    model: nn.Module,
    family: str,
    *,
    built: bool = False,
    input_shape: tuple[int, ...] | None = None,
) -> Stripped:
    """Remove the head from a timm network, in place.

    Args:
        model: The network.
        family: Name of its module in timm.
        built: Whether timm has just built it by name. Such a network without a head is
            ``headless``; if a user's own network has no head, that is an error.
        input_shape: Input without the batch axis, if known.

    Raises:
        HeadNotFoundError: The network does not belong to the family, differs from what timm
            builds, or has no head. It is then unchanged.
    """
    recognise(model, family)
    kind = type(model).__name__
    if kind in _ENCODERS:
        return replace(_encoder(model, built), input_shape=input_shape)
    refuse_unpooled(model)
    paths = head_paths(model)
    if built and all(is_removed(model.get_submodule(path)) for path in paths):
        return Stripped(model, None, (), "headless", input_shape)
    check_heads(model, paths)
    stripped = _REMOVERS.get(kind, _single)(model, paths)
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
            f"A {kind} has no head to remove. Use the network without stripping it."
        )
    mean = MeanOverPositions(model, channels_first=_ENCODERS[kind])
    return Stripped(mean, None, (), "headless")


def _remove(model: nn.Module, path: str) -> nn.Module:
    """Replace a head by ``nn.Identity``, and return the head."""
    return cast("nn.Module", detach(model, path, kind=nn.Module).head)


def _single(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove a single classifier."""
    (path,) = paths
    parent = model.get_submodule(path.rpartition(".")[0])
    head = _remove(model, path)
    if isinstance(parent, POOLS_AFTER):
        return Stripped(model, head, paths, "rounding")
    reads_maps = type(model).__name__ in _MAPS or (
        isinstance(parent, ClassifierHead) and parent.use_conv
    )
    return Stripped(model, ConvolutionHead(head) if reads_maps else head, paths)


def _averaged(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove two heads on one vector, whose logits timm averages."""
    heads = [_remove(model, path) for path in paths]
    return Stripped(model, AveragedHeads(*heads) if len(heads) > 1 else heads[0], paths)


def _two_tokens(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove the heads of two tokens. Without them timm returns the mean of the tokens."""
    heads = [_remove(model, path) for path in paths]
    if len(heads) == 1:
        return Stripped(model, heads[0], paths)
    return Stripped(model, None, paths, "declared")


def _with_auxiliary(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove VOLO's two heads. The second one adds the largest logit of all positions."""
    head = _remove(model, "head")
    if len(paths) == 1:
        return Stripped(model, head, paths)
    # The network skips this head if it is None, as after timm's reset_classifier.
    cast("Any", model).aux_head = None
    return Stripped(model, None, paths, "declared")


def _branches(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove CrossViT's heads. Without them timm concatenates the tokens of the branches."""
    heads = [_remove(model, path) for path in paths]
    return Stripped(model, BranchHeads(heads, cast("Any", model).embed_dim), paths)


def _stages(model: nn.Module, paths: tuple[str, ...]) -> Stripped:
    """Remove EfficientViM's heads. Without them timm concatenates the stages' features."""
    network = cast("Any", model)
    widths = (*network.embed_dim, network.embed_dim[-1])
    parts, lists = [], ("heads", "heads_dist") if hasattr(model, "heads_dist") else ("heads",)
    for name in lists:
        weights = name.replace("heads", "weights")
        heads = [_remove(model, path) for path in paths if path.startswith(f"{name}.")]
        parts.append(StageHeads(heads, getattr(model, weights), widths))
        delattr(model, weights)
        paths = (*paths, weights)
    # This makes the forward pass skip the weighting.
    network.num_classes = 0
    return Stripped(model, AveragedHeads(*parts) if len(parts) > 1 else parts[0], paths)


_REMOVERS: dict[str, Callable[[nn.Module, tuple[str, ...]], Stripped]] = {
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
