"""Predict attributes of images or of a file of embeddings, and write a Parquet or CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.attributes.formulas import escaped
from headstrip.attributes.labels import SEPARATOR
from headstrip.embed.files import check_out, write_errors
from headstrip.embed.output.damage import parquet_file
from headstrip.embed.output.loading import Block, EmbeddingsFile, open_embeddings
from headstrip.embed.output.paths import check_not_source, rows_file
from headstrip.embed.output.table import NOT_FINITE
from headstrip.embed.plan import Notify
from headstrip.embed.rebuild_encoder import described_in
from headstrip.embed.report import EmbedReport
from headstrip.embed.run import Progress, embed_source
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import Source, source_of
from headstrip.encoder.attribute import Attribute
from headstrip.encoder.comparison import describe_encoder
from headstrip.encoder.prediction import (
    Prediction,
    check_threshold,
    prediction_of,
    probabilities_by_name,
)
from headstrip.encoder.predictors import Predictors
from headstrip.encoder.predictors_file import FittedPredictors
from headstrip.errors import HeadstripError, OptionError
from headstrip.system.atomic import written_beside

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class PredictReport:
    """The numbers of rows that a run wrote.

    Attributes:
        rows: Number of images.
        bad: Images without an embedding, which have no predictions.
    """

    rows: int
    bad: int


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Options that decide which predictions a run writes.

    Attributes:
        all_classes: Whether to write the probability of every class.
        threshold: Smallest probability of a label that is written, for the kind ``labels``.
        abstain_below: Probability below which the class of an image is left out.
    """

    all_classes: bool = False
    threshold: float = 0.5
    abstain_below: float = 0.0


def predict_file(
    fitted: FittedPredictors,
    embeddings: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PredictOptions = PredictOptions(),
) -> PredictReport:
    """Predict the attributes of the images in a file of embeddings.

    Args:
        fitted: The predictors.
        embeddings: A file that ``headstrip embed`` wrote.
        out: The file to write, ``.parquet`` or ``.csv``.
        options: What to write.

    Raises:
        HeadstripError: The file has embeddings of another encoder, a file cannot be read or
            written, or two columns would have the same name.
        OptionError: A threshold is not a probability.
    """
    columns, path = _checked(fitted, out, options)
    _refuse_replacing(path, Path(embeddings))
    return _predict(fitted, embeddings, path, columns, options)


def predict_source(
    fitted: FittedPredictors,
    encoder: Encoder,
    source: Source | str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PredictOptions = PredictOptions(),
    *,
    embeddings: str | os.PathLike[str] | None = None,
    settings: EmbedSettings | None = None,
    run: EmbedOptions | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> tuple[PredictReport, EmbedReport]:
    """Embed the images of a source, and predict their attributes.

    headstrip keeps finished embeddings in the folder ``OUT.predicting`` until OUT is complete.
    After an interruption the same call continues with them.

    Args:
        fitted: The predictors.
        encoder: The encoder that they were fitted to.
        source: As for ``embed_source``.
        out: The file to write, ``.parquet`` or ``.csv``.
        options: What to write.
        embeddings: A file to keep the embeddings in. A later call with the same file computes only
            images that were added or changed.
        settings: As for ``embed_source``.
        run: The options of ``embed_source``.
        progress: As for ``embed_source``.
        notify: As for ``embed_source``.

    Returns:
        The report of the predictions, and the report of the embedding run.

    Raises:
        HeadstripError: The predictors were fitted to another encoder, or as ``embed_source`` and
            ``predict_file``.
        OptionError: A threshold is not a probability, or as ``embed_source``.
    """
    columns, path = _checked(fitted, out, options)
    fitted.check_encoder(describe_encoder(encoder))
    images = source if isinstance(source, Source) else source_of(source)
    check_not_source(images.describe(), path)
    kept = nullcontext(Path(embeddings)) if embeddings is not None else _embeddings_of(path)
    with kept as target:
        _refuse_replacing(path, target)
        embedded = embed_source(
            encoder,
            images,
            target,
            settings=settings,
            options=run,
            progress=progress,
            notify=notify,
        )
        # `failed` reads the reasons from the file, which may be deleted later.
        _ = embedded.failed
        predicted = _predict(fitted, target, path, columns, options)
    return predicted, embedded


@contextmanager
def _embeddings_of(out: Path) -> Iterator[Path]:
    """Yield the path of a file for the embeddings of a run; the file stays if the run fails."""
    folder = out.with_name(f"{out.name}.predicting")
    file = folder / "embeddings.parquet"
    with write_errors(out):
        folder.mkdir(exist_ok=True)
    try:
        yield file
        with write_errors(out):
            file.unlink()
    finally:
        # The folder stays if it has files with which a later call continues.
        with suppress(OSError):
            folder.rmdir()


def _refuse_replacing(out: Path, embeddings: Path) -> None:
    """Refuse to write predictions over embeddings, even if their file does not exist yet."""
    for one in {embeddings, rows_file(embeddings)}:
        is_same = out.exists() and one.exists() and out.samefile(one)
        if is_same or os.path.realpath(one) == str(out):
            raise HeadstripError(f"{str(out)!r} is the file of embeddings too. Pass another file.")


def _checked(
    fitted: FittedPredictors, out: str | os.PathLike[str], options: PredictOptions
) -> tuple[pa.Schema, Path]:
    """Do every quick check, and return the columns and the path of the file to write."""
    for name, value in (("threshold", options.threshold), ("abstain_below", options.abstain_below)):
        try:
            check_threshold(value)
        except ValueError as error:
            raise OptionError(str(error).replace("threshold", name)) from error
    columns, path = _columns(fitted.attributes, options), check_out(out)
    _is_csv(path)
    return columns, path


def _predict(
    fitted: FittedPredictors,
    embeddings: str | os.PathLike[str],
    path: Path,
    columns: pa.Schema,
    options: PredictOptions,
) -> PredictReport:
    file = open_embeddings(embeddings)
    fitted.check_encoder(described_in(file), than=f"that of {os.fspath(embeddings)!r}")
    rows = bad = 0
    write_rows = _csv_rows if _is_csv(path) else _parquet_rows
    with write_errors(path), written_beside(path) as target, write_rows(target, columns) as write:
        predictors = fitted.predictors()
        for block, errors in _blocks(file):
            write(_cells(predictors, block, errors, options))
            rows, bad = rows + len(block.ok), bad + int((~block.ok).sum())
    return PredictReport(rows, bad)


def _is_csv(path: Path) -> bool:
    if path.suffix.lower() not in {".csv", ".parquet"}:
        raise HeadstripError(
            f"{str(path)!r} cannot be written: predictions are written as .parquet or .csv. Pass "
            "another name."
        )
    return path.suffix.lower() == ".csv"


def _columns(attributes: Sequence[Attribute], options: PredictOptions) -> pa.Schema:
    fields = [pa.field("path", pa.string(), nullable=False)]
    for one in attributes:
        kinds = {
            "class": (pa.string(), pa.float64()),
            "labels": (pa.list_(pa.string()), pa.list_(pa.float64())),
            "number": (pa.float64(), None),
        }
        value, probability = kinds[one.kind]
        fields.append(pa.field(one.name, value))
        if probability is not None:
            fields.append(pa.field(f"{one.name}_probability", probability))
        if options.all_classes:
            fields += [pa.field(f"{one.name}: {name}", pa.float64()) for name in one.classes]
    fields.append(pa.field("error", pa.string()))
    names = [field.name for field in fields]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise HeadstripError(
            f"Two columns would have the name {repeated[0]!r:.80}. Fit the attributes under other "
            "names."
        )
    return pa.schema(fields)


def _blocks(file: EmbeddingsFile) -> Iterator[tuple[Block, list[str | None]]]:
    with parquet_file(rows_file(file.path)) as table:
        has_errors = "error" in table.schema_arrow.names
        errors = table.read(columns=["error"])["error"] if has_errors else None
    for block in file.blocks():
        ok = block.ok & np.isfinite(block.embeddings).all(1)
        stored = None if errors is None else errors.slice(block.start, len(ok)).to_pylist()
        reasons = [
            None if fine else (stored[row] if stored is not None else None) or NOT_FINITE
            for row, fine in enumerate(ok)
        ]
        yield block._replace(ok=ok), reasons


def _cells(
    predictors: Predictors,
    block: Block,
    errors: Sequence[str | None],
    options: PredictOptions,
) -> list[list[Any]]:
    """Return the columns of a block."""
    found = probabilities_by_name(predictors, np.nan_to_num(block.embeddings))
    columns: list[list[Any]] = [block.paths.to_pylist()]
    for one in predictors.attributes:
        predicted = [
            prediction_of(one, row, options.threshold) if fine else None
            for row, fine in zip(found[one.name], block.ok, strict=True)
        ]
        columns.append([_value(one, each, options.abstain_below) for each in predicted])
        if one.kind != "number":
            columns.append([None if each is None else each.probability for each in predicted])
        if options.all_classes:
            for at in range(len(one.classes)):
                values = found[one.name][:, at].tolist()
                columns.append(
                    [value if fine else None for value, fine in zip(values, block.ok, strict=True)]
                )
    columns.append(list(errors))
    return columns


def _value(attribute: Attribute, found: Prediction | None, abstain_below: float) -> Any:
    if found is None:
        return None
    if attribute.kind == "class" and float(found.probability or 0) < abstain_below:  # type: ignore[arg-type]  # one class has one probability
        return None
    return found.value


Write = Callable[[list[list[Any]]], None]


@contextmanager
def _parquet_rows(file: BinaryIO, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:

        def write(columns: list[list[Any]]) -> None:
            arrays = [
                pa.array(cells, field.type) for cells, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write


@contextmanager
def _csv_rows(file: BinaryIO, schema: pa.Schema) -> Iterator[Write]:
    def append(rows: Iterator[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([_csv_cell(cell) for cell in row] for row in rows)
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))

    append(iter([schema.names]))
    yield lambda columns: append(zip(*columns, strict=True))


def _csv_cell(cell: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula."""
    if isinstance(cell, (list, tuple)):
        cell = SEPARATOR.join(map(str, cell))
    return escaped(cell) if isinstance(cell, str) else cell
