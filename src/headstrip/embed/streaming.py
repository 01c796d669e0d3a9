"""Images that come one after the other, and cannot be come back to, into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from headstrip.embed.decoding.checksum import checksum_of
from headstrip.embed.engines.compile import forward_of
from headstrip.embed.files import writing
from headstrip.embed.options import Options
from headstrip.embed.output.paths import OwnFiles, root_of
from headstrip.embed.output.provenance import environment_of, metadata_for, origin_of
from headstrip.embed.output.report import EmbedReport
from headstrip.embed.output.table import Rows, open_writer, schema_of, table_of
from headstrip.embed.parallelism import lay_out
from headstrip.embed.pipeline import Stages
from headstrip.embed.plan import AUTO, Plan, Settings, encoder_in_plan
from headstrip.embed.sources import Item, StreamSource
from headstrip.errors import HeadstripError, ImageError, PreprocessingError
from headstrip.images.decode import bytes_of
from headstrip.images.inputs import is_file, read_picture, to_picture
from headstrip.images.pixels import to_pixels
from headstrip.system.atomic import written_beside

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_USUAL: dict[str, tuple[Any, ...]] = {
    "workers": (None, 0), "lanes": (None, 1), "timeout": (Options().timeout,),
    "retry_failed": (False,), "checksum": (False,), "exact": (False,), "pages": ("first",),
}  # fmt: skip
"""What the options are that mean nothing for images that pass by once."""

Pair = tuple[Item, Any]
Forward = Callable[[np.ndarray], np.ndarray]


def embed_stream(
    encoder: Encoder,
    source: StreamSource,
    out: Path,
    asked: Settings,
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> EmbedReport:
    """Embed images in their order, in this process, into a Parquet file that is whole or not there.

    Args:
        encoder: What embeds.
        source: The images; they cannot be come back to.
        out: The file.
        asked: How they are embedded; what is left open is chosen and not measured.
        options: What else the run does.
        progress: Called with the number of images done, twice: of all nobody knows how many.

    Raises:
        HeadstripError: There is no image, one is of another kind, or more are bad than may be; the
            file is there; or something is asked for that needs a source to come back to.
    """
    _check(out, asked, options)
    layout = lay_out(asked, lanes=1, workers=0, device=encoder.place()[0].type)
    plan = Plan(encoder_in_plan(encoder), layout.settings, environment_of(encoder))
    metadata = metadata_for(plan, origin_of(source), None)
    schema = schema_of(encoder.output_dim, str(layout.settings.dtype), metadata)
    done = bad = 0
    batches = _written(encoder, source, out, schema, layout.settings)
    with writing(out), closing(batches):
        for rows, errors in batches:
            done, bad = done + rows, bad + len(errors)
            if progress is not None:
                progress(done, done)
            if options.max_errors is not None and bad > options.max_errors:
                raise HeadstripError(
                    f"{bad} images could not be embedded, and max_errors is {options.max_errors}; "
                    f"the last: {errors[-1]} Nothing is written: mend them, or allow more."
                )
    return EmbedReport(done, bad, done, out, layout.settings, Stages())


def _check(out: Path, asked: Settings, options: Options) -> None:
    """Refuse what cannot be done with images that pass by once."""
    if os.path.lexists(out) and not options.overwrite:
        raise HeadstripError(
            f"{str(out)!r} is there, and images of an iterable cannot be told from those in it. "
            "Name another file, or replace it with overwrite=True."
        )
    if out.suffix == ".npy" or AUTO in (asked.engine, asked.precision):
        raise HeadstripError(
            "Images of an iterable go into a Parquet file, by an engine that is named. Name a file "
            "that ends otherwise than .npy, and an engine and a precision other than auto."
        )
    if asked.route not in (None, "exact"):
        raise HeadstripError(
            f"Images of an iterable are decoded by the route 'exact', and not by {asked.route!r}. "
            "Leave the route out, or name a folder, a list or an archive."
        )
    for name, usual in _USUAL.items():
        if (value := getattr(options, name)) not in usual:
            raise HeadstripError(
                f"Images of an iterable are embedded one batch after the other, in this process, "
                f"and {name}={value!r} cannot be. Leave it out, or name a folder or a list."
            )


def _written(
    encoder: Encoder, source: StreamSource, out: Path, schema: pa.Schema, settings: Settings
) -> Generator[tuple[int, list[str]], None, None]:
    """Write the file, and yield the rows of each batch, with the errors among them."""
    size, count = int(settings.batch_size or 1), 0
    pending: list[pa.Table] = []
    with (
        written_beside(out, durable=True) as file,
        open_writer(file, schema) as writer,
        encoder.evaluating(),
    ):
        forward, pairs = forward_of(encoder, settings), source.pairs()
        own = OwnFiles(out, root_of(source.reader()))
        while batch := list(islice(pairs, size)):
            for item, image in batch:
                if image is None:
                    own.refuse(item)
                elif filename := getattr(image, "filename", None):
                    # A picture that PIL has opened is read when it is needed.
                    own.refuse_file(filename)
            rows = _rows(encoder, source, batch, forward, size)
            pending.append(table_of(rows, schema))
            count += len(batch)
            errors = pending[-1]["error"].drop_null().to_pylist()
            yield len(batch), errors
            if len(pending) * size >= int(settings.shard_rows or 1):
                writer.write_table(pa.concat_tables(pending))
                pending = []
        if not count:
            raise HeadstripError("The iterable has no image. Pass one that has.")
        if pending:
            writer.write_table(pa.concat_tables(pending))


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
            if is_file(data):
                data = bytes_of(data)
            if isinstance(data, bytes):
                rows.checksums[slot] = checksum_of(data)
            picture: Any
            if isinstance(data, np.ndarray):
                picture = to_picture(data, preprocessing)
            else:
                picture = read_picture(data, preprocessing)
            rows.widths[slot], rows.heights[slot] = picture.size
            pixels[slot] = to_pixels(picture, preprocessing)
        except (ImageError, PreprocessingError) as error:
            rows.errors[slot] = str(error)
    if None in rows.errors:
        rows.embeddings[:] = forward(pixels)[: len(batch)]
    return rows
