"""Images that come one after the other, and cannot be come back to, into a file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from headstrip.atomic import written_beside
from headstrip.embed.checksum import checksum_of
from headstrip.embed.decode import decode_bytes
from headstrip.embed.images import to_picture
from headstrip.embed.layout import forward_of
from headstrip.embed.pixels import to_pixels
from headstrip.embed.plan import Settings
from headstrip.embed.sources import Item
from headstrip.embed.sources.stream import StreamSource
from headstrip.embed.table import Rows, open_writer, table_of
from headstrip.errors import HeadstripError, ImageError, PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder

Pair = tuple[Item, Any]
Forward = Callable[[np.ndarray], np.ndarray]


def embed_stream(
    encoder: Encoder,
    source: StreamSource,
    out: Path,
    schema: pa.Schema,
    settings: Settings,
    told: Callable[[int], None],
) -> tuple[int, int]:
    """Embed images in their order, in this process, into a Parquet file that is whole or not there.

    Args:
        encoder: What embeds.
        source: The images.
        out: The file.
        schema: What ``schema_of`` gave.
        settings: How they are embedded, nothing left open.
        told: Called with the number of rows done since it was called last.

    Returns:
        The number of rows, and of bad images.

    Raises:
        HeadstripError: There is no image, or one is of another kind.
    """
    size, count, bad = int(settings.batch_size or 1), 0, 0
    pending: list[pa.Table] = []
    with (
        written_beside(out, durable=True) as file,
        open_writer(file, schema) as writer,
        encoder.evaluating(),
    ):
        forward, pairs = forward_of(encoder, settings), source.pairs()
        while batch := list(islice(pairs, size)):
            pending.append(table_of(_rows(encoder, source, batch, forward, size), schema))
            count += len(batch)
            bad += len(batch) - pending[-1]["error"].null_count
            told(len(batch))
            if len(pending) * size >= int(settings.shard_rows or 1):
                writer.write_table(pa.concat_tables(pending))
                pending = []
        if not count:
            raise HeadstripError("The iterable has no image. Pass one that has.")
        if pending:
            writer.write_table(pa.concat_tables(pending))
    return count, bad


def _rows(
    encoder: Encoder, source: StreamSource, batch: list[Pair], forward: Forward, size: int
) -> Rows:
    preprocessing = encoder.preprocessing
    assert preprocessing is not None
    rows = Rows.empty([item for item, _ in batch], encoder.output_dim)
    pixels = np.zeros((size, *preprocessing.crop, preprocessing.channels), np.uint8)
    for slot, (item, image) in enumerate(batch):
        try:
            data = source.reader().read(item) if image is None else image
            if isinstance(data, bytes):
                rows.checksums[slot] = checksum_of(data)
                data = decode_bytes(data)
            picture: Any = to_picture(data, preprocessing)
            rows.widths[slot], rows.heights[slot] = picture.size
            pixels[slot] = to_pixels(picture, preprocessing)
        except (ImageError, PreprocessingError) as error:
            rows.errors[slot] = str(error)
    if None in rows.errors:
        rows.embeddings[:] = forward(pixels)[: len(batch)]
    return rows
