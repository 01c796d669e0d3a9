"""A folder of images into one Parquet file of embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headstrip import __version__
from headstrip.embed.batches import check_batch_size, embed_batch
from headstrip.embed.decode import decode
from headstrip.embed.files import check_out, find_images, stored_path
from headstrip.embed.parquet import Row, embeddings_file
from headstrip.errors import ImageError, PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What became of a folder of images.

    Attributes:
        rows: Number of images, and of rows in the file.
        failed: The reason for each image that was not embedded, by its path in the file.
        out: The file, as it was named.
    """

    rows: int
    failed: Mapping[str, str]
    out: Path


def embed_folder(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> EmbedReport:
    """Embed every image of a folder, and of the folders in it, into a Parquet file.

    A row an image, sorted by path: ``path`` (relative, with ``/``; ``original_path`` reads names
    that are not UTF-8 back), ``embedding`` (float32, null for a bad image), ``width`` and
    ``height`` (pixels as shown, null when unknown), ``error`` (null when all is well). The file's
    metadata has, under ``headstrip``, what the embeddings depend on. On the CPU an embedding has
    the same bits whatever other images there are: every batch has ``batch_size`` images, blank
    ones where images are bad or missing.

    Args:
        encoder: An encoder of images, with a preprocessing.
        folder: Where the images are; see ``find_images``.
        out: The file to write. It appears when it is whole; one that is there is replaced.
        batch_size: Images that go through the network at once.
        progress: Called with the numbers of images done and of all, after each batch.

    Returns:
        The number of rows, and which images were bad.

    Raises:
        HeadstripError: There is no such folder, no image in it, or ``out`` cannot be written.
        PreprocessingError: The encoder takes clips, or has no preprocessing.
        ValueError: ``batch_size`` is below 1.

    Example:
        >>> report = embed_folder(encoder, "photos", "photos.parquet")  # doctest: +SKIP
        >>> report.rows, report.failed  # doctest: +SKIP
        (3, {'torn.jpg': 'image file is truncated (12 bytes not processed).'})
    """
    check_batch_size(batch_size)
    _check_encoder(encoder)
    target, files = check_out(out), find_images(folder)
    failed: dict[str, str] = {}
    with embeddings_file(
        target, encoder.output_dim, len(files), _metadata(encoder, batch_size)
    ) as table:
        for start in range(0, len(files), batch_size):
            rows = _embed_slice(
                encoder, Path(folder), files[start : start + batch_size], batch_size
            )
            table.add(rows)
            failed |= {row.path: row.error for row in rows if row.error is not None}
            if progress is not None:
                progress(min(start + batch_size, len(files)), len(files))
    return EmbedReport(len(files), failed, Path(out))


def _check_encoder(encoder: Encoder) -> None:
    if encoder.spec.task == "video":
        raise PreprocessingError(
            f"{encoder.spec.qualified_name} takes clips of frames, and a folder has images. "
            "Use a backbone of task 'image', or embed your clips with encoder.embed."
        )
    if encoder.preprocessing is None:
        # Asking for it raises the encoder's own sentence.
        encoder.preprocess(None)


def _embed_slice(encoder: Encoder, folder: Path, files: Sequence[str], size: int) -> list[Row]:
    """Embed one slice of the files in a batch of ``size``, blank where there is no good image."""
    batch: Tensor | None = None
    rows: list[Row] = []
    for place, file in enumerate(files):
        row, ready = _read(encoder, folder, file)
        rows.append(row)
        if ready is not None:
            batch = torch.zeros(size, *ready.shape) if batch is None else batch
            batch[place] = ready
    if batch is None:
        return rows
    embeddings = embed_batch(encoder, batch)
    return [
        row if row.error else _with_embedding(row, embedding)
        for row, embedding in zip(rows, embeddings, strict=False)
    ]


def _with_embedding(row: Row, embedding: np.ndarray) -> Row:
    if not np.isfinite(embedding).all():
        return replace(row, error="its embedding is not finite.")
    return replace(row, embedding=embedding)


def _read(encoder: Encoder, folder: Path, file: str) -> tuple[Row, Tensor | None]:
    """Read one image, and say why where it cannot be."""
    path, width, height = stored_path(file), None, None
    try:
        image = decode(folder / file)
        width, height = image.size
        return Row(path, None, width, height, None), encoder.preprocess(image)
    except (ImageError, PreprocessingError) as error:
        return Row(path, None, width, height, str(error)), None


def _metadata(encoder: Encoder, batch_size: int) -> dict[str, Any]:
    preprocessing = encoder.preprocessing
    return {
        "headstrip": __version__,
        "fingerprint": encoder.fingerprint.to_json(),
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "options": encoder.options,
        "batch_size": batch_size,
    }
