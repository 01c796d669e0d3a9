"""Measure engines and precisions, and write the table of ``docs/reference/engines.md``.

The network and the photographs are the demo's. Every engine embeds each photograph
in every precision, and the tool compares the result with eager torch in float32.

    python tools/engine_tolerances.py           # prints the table
    python tools/engine_tolerances.py --write   # puts it into the page too
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
"""Divides the number of photographs."""

BEGIN, END = "<!-- tools/engine_tolerances.py -->", "<!-- end of the table -->"
LIBRARIES = ("torch", "openvino", "onnxruntime", "onnx", "onnxscript")


def batches_of(encoder: Encoder) -> list[np.ndarray]:
    """Prepare the photographs, as uint8 batches (BATCH_SIZE, H, W, 3)."""
    images = [
        to_pixels(Image.fromarray(pixels).convert("RGB"), encoder.preprocessing)
        for _, pixels in photographs()
    ]
    return [np.stack(images[at : at + BATCH_SIZE]) for at in range(0, len(images), BATCH_SIZE)]


def table(measured: Sequence[Measured]) -> list[str]:
    """Lay out a row of Markdown for each measurement."""
    head = ["engine", "precision", "smallest cosine", "mean cosine", "images/s", "s to compile"]
    rows = [head, *map(_cells, measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = (map(str.ljust, row, widths) for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in padded]


def _cells(one: Measured) -> list[str]:
    if one.unavailable:
        return [one.engine, one.precision, "not here", "", "", ""]
    return [
        one.engine, one.precision, f"{one.cosine_min:.7f}", f"{one.cosine_mean:.7f}",
        f"{one.images_per_second:.1f}", f"{one.seconds_to_compile:.1f}",
    ]  # fmt: skip


def lines_of(measured: Sequence[Measured], images: int, lanes: int) -> list[str]:
    """Write down the measurement, where and with what it was made, and what is chosen by it."""
    best, today = choose_engine(measured), datetime.date.today().isoformat()
    where = f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), {lanes} cores"
    missing = [one for one in measured if one.unavailable]
    return [
        f"`{BACKBONE}`, {images} photographs, {today}, {where}, {_versions()}; batches of "
        f"{BATCH_SIZE}, {lanes} at once with a thread each:",
        "",
        *table(measured),
        "",
        f"Of those within {TOLERANCE}, `{best.engine}` in `{best.precision}` is the fastest here.",
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
    """Put lines between the marks of a document."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])
    document.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description="Compare engines on a real network.")
    parser.add_argument("--engine", action="append", choices=engine_names(), dest="engines")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    arguments = parser.parse_args(argv)
    encoder, lanes = build_encoder(BACKBONE), cores()
    batches = batches_of(encoder)
    measured = calibrate(encoder, batches, arguments.engines, lanes=lanes)
    lines = lines_of(measured, sum(map(len, batches)), lanes)
    print(*lines, sep="\n")
    if arguments.write:
        write(lines, DOCUMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
