"""Where the heads of timm's networks are, and whether what is there gives the logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from timm.layers.attention_pool2d import AttentionPool2d, RotAttentionPool2d
from timm.layers.classifier import ClassifierHead
from torch import nn

from headstrip import HeadNotFoundError
from headstrip_timm.families import OWN, refuse_replaced

POOLS_AFTER = (AttentionPool2d, RotAttentionPool2d)
"""Heads of CLIP's ResNets, which classify every position before they pick one."""

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
"""Where the heads are that ``get_classifier`` does not name, or names only in part."""


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of the heads, all of them there or all of them off.

    Raises:
        HeadNotFoundError: The network does not say where its head is, or has some of its heads.
    """
    kind = type(model).__name__
    if kind in _HEADS:
        named = (path for path in _HEADS[kind] if getattr(model, path, None) is not None)
        paths = tuple(path for name in named for path in _members(model, name))
    elif isinstance(getattr(model, "head", None), POOLS_AFTER):
        paths = ("head.proj",)
    else:
        paths = (_named(model),)
    for path in paths:
        try:
            model.get_submodule(path)
        except AttributeError:
            raise HeadNotFoundError(
                f"A {kind} was expected to have its head at {path!r}, and has nothing there. {OWN}"
            ) from None
    return paths


def _members(model: nn.Module, name: str) -> Iterator[str]:
    """Yield the path of a head, or those of a list of heads."""
    heads = getattr(model, name)
    if isinstance(heads, nn.ModuleList):
        yield from (f"{name}.{index}" for index in range(len(heads)))
    else:
        yield name


def _named(model: nn.Module) -> str:
    """Return the path of what ``get_classifier`` names."""
    kind = type(model).__name__
    try:
        found = cast("Any", model).get_classifier()
    except (AttributeError, LookupError, TypeError) as error:
        raise HeadNotFoundError(
            f"A {kind} does not say where its head is ({error}). {OWN}"
        ) from None
    # Sequencer and SAM name the head whole, with its pooling.
    if isinstance(found, ClassifierHead):
        found = found.fc
    for path, module in model.named_modules():
        if path and module is found:
            return str(path)
    raise HeadNotFoundError(
        f"A {kind} says that its head is a {type(found).__name__}, which is no module in it. {OWN}"
    )


def is_off(head: nn.Module) -> bool:
    """Return whether what is in a head's place is none.

    RepViT and iFormer keep a module of ``nn.Identity`` there.
    """
    return next(head.parameters(), None) is None


def check_places(model: nn.Module, paths: tuple[str, ...]) -> None:
    """Refuse heads that are off already, used elsewhere too, or whose output is not the network's.

    Raises:
        HeadNotFoundError: It is so.
    """
    kind = type(model).__name__
    heads = [model.get_submodule(path) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        if is_off(head):
            raise HeadNotFoundError(
                f"The head at {path!r} of this {kind} is off already. "
                "Use the network as it is, or build it anew."
            )
        _check_way(model, path)
    for place, module in model.named_modules(remove_duplicate=False):
        if place not in paths and any(module is head for head in heads):
            raise HeadNotFoundError(
                f"The head of this {kind} stands at {place!r} too, so it cannot be taken off. {OWN}"
            )


def _check_way(model: nn.Module, path: str) -> None:
    """Refuse a head with modules around it that may do more than give its output."""
    names = path.split(".")
    for depth in range(1, len(names)):
        place, leaf = ".".join(names[:depth]), names[depth]
        parent = model.get_submodule(place)
        refuse_replaced(parent, ("forward",))
        if isinstance(parent, nn.Sequential) and leaf != list(dict(parent.named_children()))[-1]:
            raise HeadNotFoundError(
                f"Other layers follow the head at {path!r} of this {type(model).__name__}, so it "
                f"does not give the logits. Take those off first. {OWN}"
            )


def refuse_unpooled(model: nn.Module) -> None:
    """Refuse a network that was built without its pooling.

    Raises:
        HeadNotFoundError: It is so.
    """
    for module in (model, getattr(model, "head", None)):
        pooling = getattr(module, "global_pool", None)
        if "" in (pooling, getattr(pooling, "pool_type", None), getattr(module, "pool_type", None)):
            raise HeadNotFoundError(
                f"This {type(model).__name__} has no pooling (global_pool=''), so its output is no "
                "vector an image. Build it with one, such as global_pool='avg'."
            )
