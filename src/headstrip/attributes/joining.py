"""Join embeddings with a table of labels by path, and report the join in numbers."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstrip.attributes.formulas import FORMULA
from headstrip.attributes.labels import Cell, LabelTable
from headstrip.embed.output.loading import EmbeddingsFile, load_embeddings, open_embeddings
from headstrip.embed.output.paths import rows_file
from headstrip.embed.rebuild_encoder import described_in
from headstrip.errors import HeadstripError, one_line
from headstrip.system.arguments import type_of

_EXAMPLES = 3


@dataclass(frozen=True)
class Images:
    """Embedded images.

    Attributes:
        shown: The name of their source, for messages.
        paths: The paths, as ``stored_path`` writes them.
        embeddings: float32 or float16 array of shape (N, dim); if they are not in memory, a digest
            of each, uint8 of shape (N, 16).
        ok: bool array of shape (N,): False if the image has no embedding, or one that is not
            finite.
        checksums: Checksum of the bytes of each image, None if unknown.
        encoder: The encoder, as ``describe_encoder`` returns it; empty if unknown.
    """

    shown: str
    paths: Sequence[str]
    embeddings: np.ndarray = field(repr=False)
    ok: np.ndarray = field(repr=False)
    checksums: Sequence[str | None] = field(repr=False)
    encoder: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class JoinReport:
    """The numbers of a join.

    Attributes:
        images: Number of all images, with or without an embedding.
        joined: Images with an embedding and a row of labels; only these are used.
        without_labels: Images with an embedding but without a row of labels.
        without_image: Rows of labels whose path matches no image.
        bad_images: Images without a finite embedding.
        repeated_rows: Rows of labels that repeat an earlier row.
        nan_cells: Cells such as ``NaN`` that were read as missing.
        stripped_cells: Cells from which white space around the text was removed.
    """

    images: int
    joined: int
    without_labels: int
    without_image: int
    bad_images: int
    repeated_rows: int
    nan_cells: int
    stripped_cells: int

    def to_json(self) -> dict[str, int]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Joined:
    """Images with labels, sorted by path, so that the order of rows does not matter.

    Attributes:
        paths: The paths.
        rows: Row of each image in the file or array, int array of shape (N,).
        embeddings: float32 array of shape (N, dim), all finite; or the digests of ``Images``.
        checksums: Checksums, None if unknown.
        columns: The cells of each column.
        report: The numbers.
    """

    paths: list[str]
    rows: np.ndarray = field(repr=False)
    embeddings: np.ndarray = field(repr=False)
    checksums: list[str | None] = field(repr=False)
    columns: Mapping[str, list[Cell]] = field(repr=False)
    report: JoinReport


def images_of_file(path: str | os.PathLike[str]) -> Images:
    """Read a file that ``headstrip embed`` wrote.

    Raises:
        HeadstripError: The file cannot be read, or does not state its encoder.
    """
    file = open_embeddings(path)
    encoder = described_in(file)
    paths, embeddings, ok = load_embeddings(path)
    ok &= np.isfinite(embeddings).all(1)
    return Images(repr(os.fspath(path)), paths, embeddings, ok, checksums_in(file), encoder)


def images_of_array(
    embeddings: Any, paths: Iterable[str] | None, encoder: Mapping[str, Any]
) -> Images:
    """Check an array of embeddings with the paths of its rows.

    Raises:
        HeadstripError: ``embeddings`` is not such an array, or the numbers of rows and paths
            differ.
    """
    try:
        array = np.asarray(embeddings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HeadstripError(
            f"embeddings is {type_of(embeddings)} that numpy cannot read as an array "
            f"({one_line(error, 100)}). Pass an array as embeddings, and the paths of "
            "its rows as paths=."
        ) from error
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise HeadstripError(
            f"embeddings is an array of shape {array.shape} and dtype {array.dtype}, and must be "
            "floating-point of shape (images, dim). Pass a file that `headstrip embed` wrote, or "
            "such an array."
        )
    paths = () if paths is None else paths
    try:
        names = [os.fspath(path) for path in ([paths] if isinstance(paths, str) else paths)]
    except TypeError as error:
        raise HeadstripError(
            f"paths= must have the path of each row as text ({one_line(error, 100)}). Pass a list "
            "of paths."
        ) from error
    if len(names) != len(array):
        raise HeadstripError(
            f"embeddings is an array of {len(array)} rows, and {len(names) or 'no'} paths were "
            "passed. Pass paths= with one path per row."
        )
    if array.dtype == np.float64:
        # A value that is too large for float32 becomes infinite, and its image counts as bad.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    ok = np.isfinite(array).all(1)
    return Images("The array", names, array, ok, [None] * len(names), encoder)


def join(images: Images, table: LabelTable) -> Joined:
    """Join images with labels by path.

    Raises:
        HeadstripError: Two images have the same path, no image has an embedding, or less than half
            of the images or of the rows, whichever are fewer, have a match.
    """
    rows = {path: row for row, path in enumerate(images.paths)}
    if len(rows) != len(images.paths):
        repeated = next(path for row, path in enumerate(images.paths) if rows[path] != row)
        raise HeadstripError(
            f"{images.shown} has the path {repeated!r:.120} twice, as if two files of embeddings "
            "had been put together. Pass a file as `headstrip embed` wrote it."
        )
    if not images.ok.any():
        raise HeadstripError(
            f"{images.shown} has no finite embedding. Read the reasons in its column 'error'."
        )
    labelled = _as_embedded(table.paths, rows)
    known = [path for path in labelled if path in rows]
    joined = sorted(path for path in known if images.ok[rows[path]])
    good = int(images.ok.sum())
    report = JoinReport(
        images=len(images.paths),
        joined=len(joined),
        without_labels=good - len(joined),
        without_image=len(labelled) - len(known),
        bad_images=len(images.paths) - good,
        repeated_rows=table.repeated_rows,
        nan_cells=table.nan_cells,
        stripped_cells=table.stripped_cells,
    )
    if 2 * len(known) < min(len(rows), len(labelled)) or not joined:
        left = [path for path in images.paths if path not in labelled]
        right = [path for path in labelled if path not in rows]
        raise HeadstripError(
            f"{table.shown} has labels for {len(labelled):,} paths, and only {len(known):,} of "
            f"them are paths of the {len(rows):,} embedded images. Paths of images without labels: "
            f"{_examples(left)}. Paths of labels without an image: {_examples(right)}. Make the "
            "paths equal; --path-prefix (path_prefix=) removes the start of the paths of labels."
        )
    order = np.array([rows[path] for path in joined])
    return Joined(
        joined,
        order,
        np.ascontiguousarray(images.embeddings[order], np.float32),
        [images.checksums[row] for row in order],
        {name: [cells[labelled[path]] for path in joined] for name, cells in table.columns.items()},
        report,
    )


def _as_embedded(paths: Sequence[str], rows: Mapping[str, int]) -> dict[str, int]:
    """Return the row of each path of a table, with the path spelled as that of the image.

    File systems and programs write letters with accents in one of two forms, NFC or NFD, that look
    the same. If one path is exactly equal, it takes precedence.
    """
    found = {path: row for row, path in enumerate(paths)}
    others = {unicodedata.normalize("NFC", path): path for path in rows if not path.isascii()}
    spelled: dict[str, int] = {}
    for path, row in found.items():
        image = path
        if path not in rows and path.startswith(FORMULA) and f"'{path}" in rows:
            # The apostrophe belongs to the file name, and does not escape a formula.
            image = f"'{path}"
        elif path not in rows and not path.isascii():
            image = others.get(unicodedata.normalize("NFC", path), path)
        spelled[path if image in found or image in spelled else image] = row
    return spelled


def checksums_in(file: EmbeddingsFile) -> list[str | None]:
    """Return the checksum of the bytes of each image in a file, None if unknown."""
    from headstrip.embed.output.damage import parquet_file

    with parquet_file(rows_file(Path(file.path))) as table:
        if "checksum" not in table.schema_arrow.names:
            return [None] * file.rows
        found: list[str | None] = table.read(columns=["checksum"])["checksum"].to_pylist()
        return found


def _examples(paths: Sequence[str]) -> str:
    return ", ".join(f"{path!r:.120}" for path in paths[:_EXAMPLES]) or "none"
