"""Explain why a batch has no feature maps: what is wrong with it, or that the network fails.

headstrip checks only after a failure, because many networks take other sizes than the stated one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headstrip.encoder.map_owner import Owner
from headstrip.errors import LevelError, one_line
from headstrip.system.arguments import type_of

FAILURES = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""The errors that networks raise for an input that they do not take."""

_REMEDY = "Stack the outputs of encoder.preprocess."


def check_batch(x: Any) -> None:
    """Refuse an input that is not a batch of images.

    Raises:
        LevelError: ``x`` is not such a batch.
    """
    if not isinstance(x, Tensor):
        raise LevelError(f"x must be a tensor (N, C, H, W), got {type_of(x)}. {_REMEDY}")
    if x.ndim != 4:
        raise LevelError(f"x must have the shape (N, C, H, W), got {tuple(x.shape)}. {_REMEDY}")


def explained(encoder: Owner, x: Tensor, error: Exception) -> LevelError | None:
    """Return an error that says why a network failed, None if headstrip does not know the reason.

    Args:
        encoder: The encoder.
        x: The batch (N, C, H, W).
        error: The error that the network raised.
    """
    name = encoder.spec.qualified_name
    device, dtype = encoder.device, encoder.dtype
    channels, height, width = encoder.input_shape
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        remedy = f"Pass x.to({dtype})" if x.is_floating_point() else _REMEDY.rstrip(".")
        return LevelError(f"x is {x.dtype}, and {name} computes with {dtype}. {remedy}.")
    if x.device != device:
        return LevelError(f"x is on {x.device}, and {name} is on {device}. Pass x.to('{device}').")
    if x.shape[1] != channels:
        return LevelError(
            f"x has {x.shape[1]} channel{'s' * (x.shape[1] > 1)}, and {name} takes {channels}. "
            f"{_REMEDY}" + (" Build it with in_chans=1 for grey images." if x.shape[1] == 1 else "")
        )
    if _takes(encoder, x):
        return LevelError(
            f"The feature maps of {name} cannot be read, but it takes this batch: "
            f"{one_line(error)}. If you changed modules of the network, make the pyramid again."
        )
    if tuple(x.shape[2:]) != (height, width):
        return LevelError(
            f"{name} does not take images of {x.shape[2]} x {x.shape[3]}: {one_line(error)}. Pass "
            f"{height} x {width}, or see img_size of build_encoder."
        )
    return None


def _takes(encoder: Owner, x: Tensor) -> bool:
    """Return whether an encoder gives an embedding of a batch."""
    try:
        with encoder.evaluating():
            encoder.backbone(x if encoder.expand is None else encoder.expand(x))
    except FAILURES:
        return False
    return True
