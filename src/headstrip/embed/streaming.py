"""Embeds images that a program passes one after the other, and that cannot be read twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.decoding.worker import checksum_of
from headstrip.embed.dense import dense_columns, size_sentence
from headstrip.embed.engines.make import make_engine
from headstrip.embed.files import write_errors
from headstrip.embed.output.paths import OutputFiles, root_of
from headstrip.embed.output.provenance import Provenance, metadata_for, source_id
from headstrip.embed.output.table import Rows, finished_schema, open_writer, schema_of, table_of
from headstrip.embed.parallelism import choose_parallelism
from headstrip.embed.report import EmbedReport, Stages
from headstrip.embed.settings import AUTO, EmbedOptions, EmbedSettings
from headstrip.embed.sources import Item, Reader, StreamSource
from headstrip.errors import HeadstripError, ImageError, PreprocessingError
from headstrip.images.decode import bytes_of
from headstrip.images.inputs import is_file, read_picture, to_picture
from headstrip.images.pixels import to_pixels
from headstrip.system.atomic import written_beside

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_HERE = EmbedOptions(workers=0, inference_threads=1)
"""A stream is decoded in this process, and one batch at a time goes through the network."""

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "workers": (None, 0),
    "inference_threads": (None, 1),
    "timeout": (_HERE.timeout,),
    "retry_failed": (False,),
    "checksum": (False,),
    "exact": (False,),
    "pages": ("first",),
}
"""Values of the options that have no meaning for a stream."""


def embed_stream(
    encoder: Encoder,
    source: StreamSource,
    out: Path,
    requested: EmbedSettings,
    options: EmbedOptions,
    progress: Callable[[int, int], None] | None,
    notify: Callable[[str], None],
) -> EmbedReport:
    """Embed images in their order, in this process, into a Parquet file.

    The file appears when it is complete.

    Args:
        encoder: The encoder.
        source: The images; they are read once.
        out: The file.
        requested: The settings of the caller; the fixed rule chooses those that are None.
        options: What else the run does.
        progress: Called with the number of images done, twice: the number of all images is unknown.
        notify: Called with the size of maps and tokens.

    Raises:
        HeadstripError: There are no images, one is of an unknown type, too many are bad, the file
            exists, or an option needs a source that can be read again.
    """
    _check(out, requested, options)
    columns = dense_columns(encoder, requested)
    running = choose_parallelism(
        requested,
        _HERE,
        device=encoder.device.type,
        tensor_bytes=sum(one.bytes_per_image for one in columns),
    )
    if columns:
        notify(size_sentence(columns, None))
    provenance = Provenance.of(encoder, running.settings)
    metadata = metadata_for(provenance, source_id(source), None, columns)
    fields = [one.field() for one in columns]
    schema = schema_of(encoder.output_dim, str(running.settings.dtype), metadata, fields)
    size, reader, pairs = running.batch_size, source.reader(), source.pairs()
    done = bad = 0
    pending: list[pa.Table] = []
    with (
        write_errors(out),
        written_beside(out, durable=True) as file,
        _counted(file, schema, out.parent) as write,
        encoder.evaluating(),
    ):
        forward = make_engine(encoder, running.settings).outputs
        output = OutputFiles(out, root_of(reader))
        while batch := list(islice(pairs, size)):
            _refuse_to_replace(output, batch)
            rows = _embed(encoder, reader, batch, forward, size, schema)
            pending.append(table_of(rows, schema))
            errors = [error for error in rows.errors if error is not None]
            done, bad = done + len(batch), bad + len(errors)
            if progress is not None:
                progress(done, done)
            if options.max_errors is not None and bad > options.max_errors:
                raise HeadstripError(
                    f"{bad} images could not be embedded, and max_errors is {options.max_errors}; "
                    f"the last one: {errors[-1]} headstrip wrote no file. Repair the images, or "
                    "raise max_errors."
                )
            if len(pending) * size >= int(running.settings.shard_rows or 1):
                write(pa.concat_tables(pending))
                pending = []
        if not done:
            raise HeadstripError("The iterable has no images. Pass one with images.")
        if pending:
            write(pa.concat_tables(pending))
        # Somebody may have written another file there meanwhile.
        _check_absent(out, options)
    return EmbedReport(done, bad, done, out, running.settings, Stages())


@contextmanager
def _counted(
    file: BinaryIO, schema: pa.Schema, folder: Path
) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that writes tables; at the end the file has them and their number of rows.

    A writer takes the metadata first, and the number is known last, so the tables wait in a
    temporary file in ``folder``.
    """
    with TemporaryFile(dir=folder) as waiting:
        with open_writer(waiting, schema) as writer:
            yield writer.write_table
        waiting.seek(0)
        with pq.ParquetFile(waiting) as table:
            finished = finished_schema(schema, table.metadata.num_rows)
            with open_writer(file, finished) as writer:
                for group in range(table.num_row_groups):
                    writer.write_table(table.read_row_group(group).cast(finished))


def _check(out: Path, requested: EmbedSettings, options: EmbedOptions) -> None:
    """Refuse what needs images that can be read again."""
    _check_absent(out, options)
    if out.suffix == ".npy" or AUTO in (requested.engine, requested.precision):
        raise HeadstripError(
            "headstrip writes the images of an iterable to a Parquet file, with an engine and a "
            "precision other than 'auto'. Pass a file that does not end in .npy, and name the "
            "engine and the precision."
        )
    if requested.decode_mode not in (None, "exact"):
        raise HeadstripError(
            f"headstrip decodes the images of an iterable in the mode 'exact', not in "
            f"{requested.decode_mode!r}. Leave out decode_mode=, or pass a folder, a list or an "
            "archive."
        )
    for name, allowed in _ALLOWED.items():
        if (value := getattr(options, name)) not in allowed:
            raise HeadstripError(
                "headstrip embeds the images of an iterable in this process, one batch after the "
                f"other, and {name}={value!r} is not possible. Leave it out, or pass a folder or "
                "a list."
            )


def _check_absent(out: Path, options: EmbedOptions) -> None:
    """Refuse to replace an existing file, unless the caller wants that."""
    if os.path.lexists(out) and not options.overwrite:
        raise HeadstripError(
            f"{str(out)!r} exists, and headstrip cannot compare the images of an iterable with "
            "those in it. Pass another file, or replace it with overwrite=True."
        )


def _refuse_to_replace(output: OutputFiles, batch: list[tuple[Item, Any]]) -> None:
    """Refuse images whose files the run would replace."""
    for item, image in batch:
        if image is None:
            output.check_item(item)
        elif filename := getattr(image, "filename", None):
            # PIL reads the file of an open picture later.
            output.check_file(filename)


def _embed(
    encoder: Encoder,
    reader: Reader,
    batch: list[tuple[Item, Any]],
    forward: Callable[[np.ndarray], Sequence[np.ndarray]],
    size: int,
    schema: pa.Schema,
) -> Rows:
    """Decode and embed a batch of up to ``size`` images."""
    preprocessing = encoder.preprocessing
    assert preprocessing is not None
    rows = Rows.empty([item for item, _ in batch], encoder.output_dim, schema)
    pixels = np.zeros((size, *preprocessing.crop, preprocessing.channels), np.uint8)
    for row, (item, image) in enumerate(batch):
        try:
            data = reader.read(item) if image is None else image
            if is_file(data):
                data = bytes_of(data)
            if isinstance(data, bytes):
                rows.checksums[row] = checksum_of(data)
            picture: Any
            if isinstance(data, np.ndarray):
                picture = to_picture(data, preprocessing)
            else:
                picture = read_picture(data, preprocessing)
            rows.widths[row], rows.heights[row] = picture.size
            pixels[row] = to_pixels(picture, preprocessing)
        except (ImageError, PreprocessingError) as error:
            rows.errors[row] = str(error)
    if None in rows.errors:
        rows.put([*range(len(batch))], forward(pixels))
    return rows
