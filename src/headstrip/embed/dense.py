"""The feature maps and tokens that a run writes beside the embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from headstrip.embed.settings import ENGINE_OF_MAPS, EmbedSettings
from headstrip.encoder.maps import choose_levels, map_sizes, read_maps
from headstrip.errors import LevelError, OptionError
from headstrip.system.memory import shown_bytes

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class DenseColumn:
    """A column of maps or tokens, of one level.

    Attributes:
        level: Number of the level.
        grid: Rows and columns of cells.
        channels: Numbers of a cell.
        stride: Pixels between two neighbouring cells.
        prefix: Tokens before those of the cells; None for a map.
        dtype: float16 or float32.
    """

    level: int
    grid: tuple[int, int]
    channels: int
    stride: int
    prefix: int | None
    dtype: str

    @property
    def name(self) -> str:
        """The name of the column, such as ``map_4`` or ``tokens_11``."""
        return f"{'map' if self.prefix is None else 'tokens'}_{self.level}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a map, or (prefix + H * W, C) of tokens."""
        if self.prefix is None:
            return (self.channels, *self.grid)
        return (self.prefix + math.prod(self.grid), self.channels)

    @property
    def bytes_per_image(self) -> int:
        """Bytes of an image's values before compression."""
        return math.prod(self.shape) * (2 if self.dtype == "float16" else 4)

    def field(self) -> pa.Field:
        """Return the column of the table, a tensor of a fixed shape."""
        kind = pa.float16() if self.dtype == "float16" else pa.float32()
        names = ["token", "channel"] if self.prefix is not None else ["channel", "row", "column"]
        return pa.field(self.name, pa.fixed_shape_tensor(kind, self.shape, dim_names=names))

    def to_json(self) -> dict[str, Any]:
        """Return what the metadata of a file state of the column."""
        return {
            "level": self.level,
            "channels": self.channels,
            "grid": list(self.grid),
            "stride": self.stride,
            "prefix": self.prefix,
            "dtype": self.dtype,
        }


def resolve_maps(encoder: Encoder, settings: EmbedSettings) -> EmbedSettings:
    """Return settings with the numbers of the levels counted from the first, and their engine.

    Raises:
        LevelError: The encoder does not have these maps or tokens.
        OptionError: The engine gives embeddings only.
    """
    if not settings.has_maps:
        return settings
    settings.check_engine_of_maps()
    levels = {choose_levels(encoder, [number], None)[0] for number in settings.maps or ()}
    return replace(settings, engine=ENGINE_OF_MAPS, maps=tuple(sorted(levels)) or None)


def dense_columns(encoder: Encoder, settings: EmbedSettings) -> tuple[DenseColumn, ...]:
    """Return the columns of maps and tokens that a run writes; the network runs once for them.

    Args:
        encoder: The encoder.
        settings: What ``resolve_maps`` returned, or the settings of a file.

    Raises:
        LevelError: The encoder has no tokens, or not these levels.
        OptionError: There is a dtype of maps, and neither maps nor tokens.
    """
    if not settings.has_maps:
        if settings.maps_dtype is not None:
            raise OptionError(
                f"--maps-dtype {settings.maps_dtype} (maps_dtype={settings.maps_dtype!r}) is for "
                "feature maps and tokens, and this file has none. Pass --maps or --tokens (maps= "
                "or tokens=) too, or leave it out."
            )
        return ()
    (last,) = choose_levels(encoder, [-1], None)
    # The settings of a file may name levels that this network does not have.
    maps = choose_levels(encoder, settings.maps, None) if settings.maps else ()
    levels = tuple(sorted({*maps, *([last] if settings.tokens else [])}))
    device, dtype = encoder.device, encoder.dtype
    blank = torch.zeros((1, *encoder.input_shape), device=device, dtype=dtype)
    with encoder.evaluating():
        _, found, prefixes = read_maps(encoder, blank, levels, True)
    sizes = map_sizes(encoder)
    columns = {
        level: DenseColumn(
            level=level,
            grid=(one.shape[2], one.shape[3]),
            channels=one.shape[1],
            stride=sizes[level].stride,
            prefix=None,
            dtype=settings.maps_dtype or "float16",
        )
        for level, one in zip(levels, found, strict=True)
    }
    chosen = [columns[level] for level in maps]
    if settings.tokens:
        prefix = prefixes[-1]
        if prefix is None:
            raise LevelError(
                f"{encoder.spec.qualified_name} has no tokens, but {len(sizes)} feature maps: use "
                f"--maps (maps=) with one or more of 0 to {last}, or -1 for the last."
            )
        chosen.append(replace(columns[last], prefix=prefix.shape[1]))
    return tuple(chosen)


def size_sentence(columns: Sequence[DenseColumn], images: int | None) -> str:
    """Return a sentence about the size of maps and tokens.

    Args:
        columns: The columns.
        images: Number of images, None if it is unknown.
    """
    shapes = ", ".join(
        f"{one.name} ({' x '.join(map(str, one.shape))}, {one.dtype})" for one in columns
    )
    each = sum(one.bytes_per_image for one in columns)
    total = ""
    if images is not None:
        total = f", {shown_bytes(each * images)} for {images} image{'s' * (images != 1)},"
    return f"headstrip writes {shapes}: {shown_bytes(each)} per image{total} before compression."
