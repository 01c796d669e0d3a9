"""Compare engines and precisions on real photographs, and write ``docs/reference/engines.md``.

The network and the photographs are those of the demo. The script embeds the photographs with every
engine in every precision, and compares the embeddings with those of eager torch in float32.

    python tools/engine_tolerances.py           # print the table
    python tools/engine_tolerances.py --write   # also write it into the page
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo import BACKBONE, photographs
from headstrip import build_encoder
from headstrip.embed.calibrate import TOLERANCE, Measured, calibrate, choose_engine
from headstrip.embed.engines.registry import engine_names
from headstrip.embed.parallelism import cores
from headstrip.encoder.encoder import Encoder
from headstrip.images.pixels import to_pixels

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "engines.md"
BATCH_SIZE = 5
"""Images in a batch. The number of photographs is a multiple of it."""

BEGIN, END = "<!-- tools/engine_tolerances.py -->", "<!-- end of the table -->"
LIBRARIES = ("torch", "openvino", "onnxruntime", "onnx", "onnxscript")


def batches_of(encoder: Encoder) -> list[np.ndarray]:
    """Return the photographs as uint8 batches (BATCH_SIZE, H, W, 3)."""
    images = [
        to_pixels(Image.fromarray(pixels).convert("RGB"), encoder.preprocessing)
        for _, pixels in photographs()
    ]
    return [np.stack(images[at : at + BATCH_SIZE]) for at in range(0, len(images), BATCH_SIZE)]


def table(measured: Sequence[Measured]) -> list[str]:
    """Return a Markdown table with one row per measurement."""
    head = ["engine", "precision", "smallest cosine", "mean cosine", "images/s", "s to compile"]
    rows = [head, *map(_cells, measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = (map(str.ljust, row, widths) for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in padded]


def _cells(one: Measured) -> list[str]:
    if one.unavailable:
        return [one.engine, one.precision, "not installed", "", "", ""]
    return [
        one.engine,
        one.precision,
        f"{one.cosine_min:.7f}",
        f"{one.cosine_mean:.7f}",
        f"{one.images_per_second:.1f}",
        f"{one.seconds_to_compile:.1f}",
    ]


def lines_of(measured: Sequence[Measured], images: int, inference_threads: int) -> list[str]:
    """Return the text about the measurement: machine, versions, table and the fastest engine."""
    best, today = choose_engine(measured), datetime.date.today().isoformat()
    processor = f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    where = f"{processor}, {inference_threads} cores"
    missing = [one for one in measured if one.unavailable]
    return [
        f"`{BACKBONE}`, {images} photographs, {today}, {where}, {_versions()}; batches of "
        f"{BATCH_SIZE}, {inference_threads} at once with one thread each:",
        "",
        *table(measured),
        "",
        f"`{best.engine}` in `{best.precision}` is the fastest within {TOLERANCE}.",
        *(f"\n`{one.engine}` in `{one.precision}`: {one.unavailable}" for one in missing),
    ]


def _versions() -> str:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def write(lines: Sequence[str], document: Path) -> None:
    """Replace the lines between the markers of a document."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])
    document.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description="Compare engines on a real network.")
    parser.add_argument("--engine", action="append", choices=engine_names(), dest="engines")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    arguments = parser.parse_args(argv)
    encoder, inference_threads = build_encoder(BACKBONE), cores()
    batches = batches_of(encoder)
    measured = calibrate(encoder, batches, arguments.engines, inference_threads=inference_threads)
    lines = lines_of(measured, sum(map(len, batches)), inference_threads)
    print(*lines, sep="\n")
    if arguments.write:
        write(lines, DOCUMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
