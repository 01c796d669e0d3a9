"""Embed the images of a comparison into a work folder, one file per encoder, and read the files."""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from headstrip.compare.costs import Costs, costs_of, peak_memory
from headstrip.embed.files import write_errors
from headstrip.embed.output.damage import DamagedFile, open_parquet
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.run import embed_source
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import Item, Reader, Source
from headstrip.encoder.encoder import Encoder
from headstrip.errors import HeadstripError, one_line
from headstrip.system.atomic import write_atomically
from headstrip.system.out_of_memory import is_out_of_memory

_log = logging.getLogger("headstrip.compare")

Progress = Callable[[str, int, int], None]
"""A function that takes the name of the encoder, the number of images done, and that of all."""


@dataclass(frozen=True)
class ChosenImages:
    """Some images of a source.

    Attributes:
        source: The source.
        paths: Paths of the images.
    """

    source: Source
    paths: frozenset[str] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """Describe the source as plain JSON values."""
        return self.source.describe()

    def items(self) -> Iterator[Item]:
        """List the images."""
        return (item for item in self.source.items() if item.path in self.paths)

    def reader(self) -> Reader:
        """Return the reader of the source."""
        return self.source.reader()


@dataclass(frozen=True)
class Run:
    """The images of a comparison and the settings to embed them.

    Attributes:
        source: The images.
        folder: The work folder.
        settings: Settings that embeddings depend on.
        options: Other settings.
        progress: Called during embedding; see ``Progress``.
    """

    source: Source
    folder: Path
    settings: EmbedSettings
    options: EmbedOptions
    progress: Progress | None = None


@dataclass(frozen=True)
class Embedded:
    """A file of embeddings.

    Attributes:
        file: The file.
        costs: The costs of its encoder.
    """

    file: Path
    costs: Costs


@contextmanager
def work_folder(path: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Yield the folder for the embeddings: the caller's, or a temporary one.

    Raises:
        HeadstripError: The folder cannot be created.
    """
    if path is None:
        with TemporaryDirectory(prefix="headstrip-compare-") as temporary:
            yield Path(temporary)
        return
    folder = Path(os.path.expanduser(path))
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    yield folder


def embed(run: Run, encoder: Encoder, shown: str, paths: Sequence[str]) -> Embedded:
    """Embed those of the images whose embeddings the work folder lacks.

    Args:
        run: The images and the settings.
        encoder: The encoder. Its fingerprint is part of the name of the file.
        shown: Name of the encoder in the name of the file and in progress.
        paths: Paths of the images.

    Raises:
        HeadstripError: As ``embed_source``.
    """
    safe = re.sub(r"[^\w.-]+", "_", shown)[:60].strip("._") or "encoder"
    device = encoder.device
    # Runs with another source, other settings or another device use other files in the same folder.
    what = [run.source.describe(), run.settings.to_json(), device.type]
    where = json.dumps(what, sort_keys=True, default=repr)
    mark = hashlib.sha256(f"{encoder.fingerprint.identity}\0{where}".encode()).hexdigest()[:16]
    file = run.folder / f"{safe}-{mark}.parquet"

    # Embed the images of earlier runs too: otherwise embed_source would remove their rows.
    wanted = frozenset(paths)
    try:
        wanted |= frozenset(read_columns(file, ["path"])["path"])
    except FileNotFoundError:
        pass
    except DamagedFile as damaged:
        _log.warning("%s headstrip computes these embeddings again.", damaged)
        file.unlink()

    def progress(done: int, total: int) -> None:
        if run.progress is not None:
            run.progress(shown, done, total)

    started = time.perf_counter()
    with peak_memory(device) as peak:
        report = embed_source(
            encoder,
            ChosenImages(run.source, wanted),
            file,
            settings=run.settings,
            options=run.options,
            progress=progress,
        )
    seconds = time.perf_counter() - started - report.stages.prepared
    measured = _measured(file, report.computed, seconds, peak)
    return Embedded(file, costs_of(encoder, *measured))


def _measured(
    file: Path, images: int, seconds: float, peak: Sequence[int]
) -> tuple[float | None, int | None]:
    """Add a measurement to those of earlier runs; return images per second and peak memory."""
    record = file.with_suffix(".costs.json")
    total: dict[str, Any] = {"images": 0, "seconds": 0.0, "peak_memory": None}
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        peak_before = found["peak_memory"]
        total = {
            "images": int(found["images"]),
            "seconds": float(found["seconds"]),
            "peak_memory": None if peak_before is None else int(peak_before),
        }
    except (OSError, ValueError, KeyError, TypeError):
        # The file is missing or has another content, so this run starts a new record.
        pass
    if images:
        total["images"] += images
        total["seconds"] += seconds
        total["peak_memory"] = max([*peak, total["peak_memory"] or 0]) or None
        write_atomically(record, json.dumps(total).encode())
    speed = total["images"] / total["seconds"] if total["images"] and total["seconds"] > 0 else None
    return speed, total["peak_memory"]


def read_rows(file: Path, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the embeddings of some images, in this order.

    Returns:
        float32 array of shape (images, dim), with zeros for images without an embedding; and a bool
        array of shape (images,): whether the image has an embedding.

    Raises:
        HeadstripError: The file cannot be read.
    """
    opened = open_embeddings(file)
    rows = {path: row for row, path in enumerate(paths)}
    found = _zeros(len(paths), opened.dim)
    is_found = np.zeros(len(paths), bool)
    for block in opened.blocks():
        at = np.array([rows.get(path, -1) for path in block.paths.to_pylist()], int)
        is_used = (at >= 0) & block.ok & np.isfinite(block.embeddings).all(1)
        found[at[is_used]] = block.embeddings[is_used]
        is_found[at[is_used]] = True
    return found, is_found


def _zeros(rows: int, dim: int) -> np.ndarray:
    """Return float32 zeros in separate pages, which go back to the system when they are freed.

    After ``keep_freed_memory`` the C library keeps the memory of a freed matrix, and the next
    matrix, which has another size, often does not fit into it.
    """
    if sys.platform != "linux" or not rows * dim:
        return np.zeros((rows, dim), np.float32)
    pages = mmap.mmap(-1, 4 * rows * dim, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.float32).reshape(rows, dim)


def read_columns(file: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Read other columns of a file of embeddings.

    Raises:
        DamagedFile: The file is damaged.
        FileNotFoundError: There is no such file.
    """
    with open_parquet(file) as table:
        columns: dict[str, list[Any]] = table.read(columns=list(names)).to_pydict()
        return columns


def reason_of(error: Exception) -> str:
    """Return why a backbone could not be used, as a sentence."""
    if is_out_of_memory(error):
        return f"It ran out of memory ({one_line(error, 200)})."
    text = one_line(error)
    if not isinstance(error, HeadstripError):
        text = f"{type(error).__name__}: {text}"
    return text
