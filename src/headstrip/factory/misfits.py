"""Describe in an error why a weights file does not fit a network."""

from __future__ import annotations

import math
import re
from pathlib import Path

from headstrip.errors import WeightsError
from headstrip.factory.image_sizes import OPTIONS as IMAGE_SIZE_OPTIONS
from headstrip.network.state_dicts import Fit

_POSITIONS = ("pos_embed", "pos_embedding", "position_embedding", "positional_embedding")
NAME_IT = "Name the backbone that it was made for."
"""The advice if headstrip knows no better one."""

_SHARD = re.compile(r"-\d+-of-\d+\.")
_MOST_PREFIX_TOKENS = 16

Shape = tuple[int, ...]


def does_not_fit(
    path: Path,
    about: str,
    fit: Fit,
    paths: tuple[str, ...],
    input_shape: Shape | None,
    place: str = "",
) -> WeightsError:
    """Return the error for a file with tensors outside the heads that do not fit.

    Args:
        path: The file.
        about: Qualified name of the backbone.
        fit: What does not fit.
        paths: Dotted paths of the heads, whose tensors may differ.
        input_shape: Input of the network without the batch axis, None if it is not known.
        place: Where the state dict is in the file, empty for the whole file.
    """
    outside = set(fit.outside(paths))
    shapes = dict(zip(fit.reshaped, fit.shapes, strict=True))
    reshaped = {name: pair for name, pair in shapes.items() if name in outside}
    problems = [
        _counted([repr(name) for name in names if name in outside], one, many)
        for names, one, many in (
            (fit.missing, "tensor is missing", "tensors are missing"),
            (fit.unexpected, "tensor is unknown", "tensors are unknown"),
        )
    ]
    described = [
        f"{name!r} is {_sized(mine)} in the file and {_sized(own)} in the network"
        for name, (mine, own) in reshaped.items()
    ]
    problems.append(_counted(described, "tensor has another shape", "tensors have another shape"))
    advice = ""
    if len(outside) == len(reshaped):
        advice = _channel_advice(reshaped) or _size_advice(about, reshaped, input_shape)
    if fit.missing and _SHARD.search(path.name):
        advice = "It is one of several files of a checkpoint: pass their .safetensors.index.json."
    return WeightsError(
        f"{described_place(path, place)} does not fit {about}: "
        f"{', '.join(filter(None, problems))}. {advice or NAME_IT}"
    )


def described_place(path: Path, place: str) -> str:
    """Return a file, or a state dict in it, as the subject of a message."""
    return f"The state dict {place!r} in {path}" if place else f"{path}"


def _counted(items: list[str], one: str, many: str) -> str:
    """Say how many items there are, and show two of them."""
    if not items:
        return ""
    shown = ", ".join(items[:2]) + (" ..." if items[2:] else "")
    return f"{len(items)} {one if len(items) == 1 else many} ({shown})"


def _sized(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"


def _channel_advice(reshaped: dict[str, tuple[Shape, Shape]]) -> str:
    """Say for how many channels a file was made, if only its first convolution differs."""
    if len(reshaped) != 1:
        return ""
    ((mine, own),) = reshaped.values()
    if len(mine) != len(own) or len(own) != 4 or (mine[0], *mine[2:]) != (own[0], *own[2:]):
        return ""
    count = f"{mine[1]} channel{'s' if mine[1] > 1 else ''}"
    return (
        f"The file was made for images of {count}, and the network is for {own[1]}. "
        f"Pass in_chans={mine[1]} (--in-chans {mine[1]})."
    )


def _size_advice(
    about: str, reshaped: dict[str, tuple[Shape, Shape]], input_shape: Shape | None
) -> str:
    """Say for which image size a file was made, if only its position embeddings differ."""
    if not all(any(part in name for part in _POSITIONS) for name in reshaped):
        return ""
    sizes = {_image_size(mine, own, input_shape) for mine, own in reshaped.values()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None or input_shape is None:
        return (
            "Its position embedding is for another number of patches: the file was made for "
            "another size of image, or of patch. Build the network for that size."
        )
    is_known = about.partition(":")[0] in IMAGE_SIZE_OPTIONS
    how = f"Pass img_size={size} (--img-size {size})"
    if not is_known:
        how = "Build the network for that size"
    return (
        f"The file was made for images of {size}x{size}, and the network is for "
        f"{input_shape[-2]}x{input_shape[-1]}. {how}."
    )


def _image_size(mine: Shape, own: Shape, input_shape: Shape | None) -> int | None:
    """Find the side of the square images that a position embedding is for, None if unclear.

    Args:
        mine: Its shape in the file, (tokens, width) or (1, tokens, width).
        own: Its shape in the network.
        input_shape: Input of the network, channels first.
    """
    if input_shape is None or len(mine) != len(own) or len(own) < 2 or mine[-1] != own[-1]:
        return None
    side = input_shape[-1]
    if input_shape[-2] != side or mine[:-2] != own[:-2]:
        return None
    for others in range(_MOST_PREFIX_TOKENS):
        grid = _root(own[-2] - others)
        if grid and side % grid == 0:
            found = _root(mine[-2] - others)
            return found * (side // grid) if found else None
    return None


def _root(count: int) -> int:
    """Return the square root of a square number, 0 for any other number."""
    root = math.isqrt(count) if count > 0 else 0
    return root if root * root == count else 0
