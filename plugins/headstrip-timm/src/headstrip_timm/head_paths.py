"""Find the heads of timm's networks, and check that they give the logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from timm.layers.attention_pool2d import AttentionPool2d, RotAttentionPool2d
from timm.layers.classifier import ClassifierHead
from torch import nn

from headstrip import HeadNotFoundError
from headstrip_timm.families import OWN, refuse_replaced

POOLS_AFTER = (AttentionPool2d, RotAttentionPool2d)
"""Heads of CLIP's ResNets, which classify every position and then select one."""

_HEADS: dict[str, tuple[str, ...]] = {
    "CrossVit": ("head",),
    "EfficientFormer": ("head", "head_dist"),
    "EfficientFormerV2": ("head", "head_dist"),
    "EfficientViM": ("heads",),
    "EfficientViMDistilled": ("heads", "heads_dist"),
    "EfficientVitMsra": ("head",),
    "LevitDistilled": ("head", "head_dist"),
    "PoolingVisionTransformer": ("head", "head_dist"),
    "SHViT": ("head",),
    "SwiftFormer": ("head", "head_dist"),
    "VOLO": ("head", "aux_head"),
    "VisionTransformerDistilled": ("head", "head_dist"),
}
"""Attributes of heads that ``get_classifier`` does not return, or returns only in part."""


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of all heads of a network.

    Raises:
        HeadNotFoundError: The network does not state where its head is, or a head is missing.
    """
    kind = type(model).__name__
    if kind in _HEADS:
        named = (path for path in _HEADS[kind] if getattr(model, path, None) is not None)
        paths = tuple(path for name in named for path in _members(model, name))
    elif isinstance(getattr(model, "head", None), POOLS_AFTER):
        paths = ("head.proj",)
    else:
        paths = (_classifier_path(model),)
    for path in paths:
        try:
            model.get_submodule(path)
        except AttributeError:
            raise HeadNotFoundError(
                f"This {kind} has no module at {path!r}, where its head was expected. {OWN}"
            ) from None
    return paths


def _members(model: nn.Module, name: str) -> Iterator[str]:
    """Yield the path of a head, or those of a list of heads."""
    heads = getattr(model, name)
    if isinstance(heads, nn.ModuleList):
        yield from (f"{name}.{index}" for index in range(len(heads)))
    else:
        yield name


def _classifier_path(model: nn.Module) -> str:
    """Return the path of the module that ``get_classifier`` returns."""
    kind = type(model).__name__
    try:
        found = cast("Any", model).get_classifier()
    except (AttributeError, LookupError, TypeError) as error:
        raise HeadNotFoundError(
            f"This {kind} does not state where its head is ({error}). {OWN}"
        ) from None
    # Sequencer and SAM return the head with its pooling.
    if isinstance(found, ClassifierHead):
        found = found.fc
    for path, module in model.named_modules():
        if path and module is found:
            return str(path)
    raise HeadNotFoundError(
        f"This {kind} does not state where its head is: its get_classifier() returned "
        f"something of the class {type(found).__name__}, which is not one of its modules. "
        f"{OWN}"
    )


def is_removed(head: nn.Module) -> bool:
    """Return whether the module at a head's path has no parameters, so the head was removed.

    In RepViT and iFormer, a module with ``nn.Identity`` layers stays there.
    """
    return next(head.parameters(), None) is None


def check_heads(model: nn.Module, paths: tuple[str, ...]) -> None:
    """Refuse heads that were removed, are used twice, or do not give the network's output.

    Raises:
        HeadNotFoundError: A head is refused.
    """
    kind = type(model).__name__
    heads = [model.get_submodule(path) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        if is_removed(head):
            raise HeadNotFoundError(
                f"The head at {path!r} of this {kind} has already been removed. "
                "Use the network without stripping it, or build it again."
            )
        _check_parents(model, path)
    for other, module in model.named_modules(remove_duplicate=False):
        if other not in paths and any(module is head for head in heads):
            raise HeadNotFoundError(
                f"The head of this {kind} is also at {other!r}, so it cannot be removed. {OWN}"
            )


def _check_parents(model: nn.Module, path: str) -> None:
    """Refuse a head if a module that contains it may do more than return its output."""
    names = path.split(".")
    for depth in range(1, len(names)):
        leaf = names[depth]
        parent = model.get_submodule(".".join(names[:depth]))
        refuse_replaced(parent, ("forward",))
        if isinstance(parent, nn.Sequential) and leaf != list(dict(parent.named_children()))[-1]:
            raise HeadNotFoundError(
                f"Other layers follow the head at {path!r} of this {type(model).__name__}, so it "
                f"does not give the logits. Remove those first. {OWN}"
            )


def refuse_unpooled(model: nn.Module) -> None:
    """Refuse a network that was built without pooling.

    Raises:
        HeadNotFoundError: The network has no pooling.
    """
    for module in (model, getattr(model, "head", None)):
        pooling = getattr(module, "global_pool", None)
        if "" in (pooling, getattr(pooling, "pool_type", None), getattr(module, "pool_type", None)):
            raise HeadNotFoundError(
                f"This {type(model).__name__} has no pooling (global_pool=''), so its output is "
                "not one vector per image. Build it with pooling, such as global_pool='avg'."
            )
