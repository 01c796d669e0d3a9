"""Embed ten thousand and a million tiny images, to check that memory does not grow.

The script samples the resident sets of the process and of its decoders twice a second, adds them,
and draws the sum.

    python tools/soak_embed.py --markdown docs/reference/memory.md --svg docs/reference/memory.svg
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIDE, DIM, PER_FILE = 8, 64, 10_000
EVERY = 0.5
ALLOWED = 300
"""MiB that the large run may take more than the small one."""


def write_images(folder: Path, count: int) -> None:
    """Write Parquet files with 10,000 tiny PNG images each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    images = []
    for _ in range(256):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    for number in range(-(-count // PER_FILE)):
        rows = min(PER_FILE, count - number * PER_FILE)
        column = [{"bytes": images[row % 256], "path": None} for row in range(rows)]
        table = pa.table({"image": pa.array(column)})
        pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=1000)


def small_encoder() -> Any:
    """Build a tiny encoder."""
    import torch
    from torch import nn

    from headstrip import BackboneSpec, Preprocessing
    from headstrip.encoder.encoder import Encoder

    torch.manual_seed(0)
    shape = (3, SIDE, SIDE)
    spec = BackboneSpec(
        name="tiny",
        source="soak",
        family="soak:tiny",
        plugin="soak",
        task="image",
        input_shape=shape,
        dim=DIM,
        params=SIDE * SIDE * 3 * DIM,
        law="headless",
    )
    return Encoder(
        nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, DIM)),
        None,
        law="headless",
        output_dim=DIM,
        spec=spec,
        weights=None,
        weights_sha256=None,
        options={},
        input_shape=shape,
        predictors=None,
        labels=None,
        preprocessing=Preprocessing(
            crop=(SIDE, SIDE), resize=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
    )


def resident() -> float:
    """Return the sum of the resident sets of this process and its descendants, in MiB."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        pid = int(folder.name)
        children.setdefault(int(fields[1]), []).append(pid)
        sizes[pid] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += sizes.get(pid, 0)
        todo += children.get(pid, [])
    return total / 2**20


def measure(count: int) -> None:
    """Embed ``count`` images in this process, and print the samples as JSON."""
    import pyarrow.parquet as pq

    from headstrip.embed.run import embed_source
    from headstrip.system.allocator import keep_freed_memory

    # `headstrip embed` also keeps freed memory in the process.
    keep_freed_memory()
    encoder, samples, done = small_encoder(), [], threading.Event()
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "images", Path(temporary) / "out.parquet"
        write_images(folder, count)
        started = time.perf_counter()

        def sample() -> None:
            while not done.wait(EVERY):
                samples.append((time.perf_counter() - started, resident()))

        thread = threading.Thread(target=sample)
        thread.start()
        report = embed_source(encoder, folder, out)
        samples.append((time.perf_counter() - started, resident()))
        done.set()
        thread.join()
        assert report.rows == pq.read_metadata(out).num_rows == count
        assert report.bad == 0
    print(json.dumps({"count": count, "samples": samples}))


def in_a_process(count: int) -> dict[str, Any]:
    """Measure in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", str(count)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def drawing(runs: list[dict[str, Any]]) -> str:
    """Draw the resident set against the progress of each run."""
    width, height, left, bottom = 720, 300, 60, 40
    most = max(size for run in runs for _, size in run["samples"]) * 1.1
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for step in range(5):
        size = most * step / 4
        y = height - bottom - (height - bottom - 20) * step / 4
        lines.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{size:.0f}</text>')
    for run, colour in zip(runs, ("#d95f02", "#1b9e77"), strict=True):
        end = run["samples"][-1][0]
        points = " ".join(
            f"{left + (width - left - 20) * seconds / end:.1f},"
            f"{height - bottom - (height - bottom - 20) * size / most:.1f}"
            for seconds, size in run["samples"]
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        x = left + (20 if run is runs[0] else 240)
        lines.append(f'<text x="{x}" y="16" fill="{colour}">{run["count"]:,} images</text>')
    lines.append(f'<text x="{left}" y="{height - 12}">start</text>')
    lines.append(f'<text x="{width - 20}" y="{height - 12}" text-anchor="end">end</text>')
    lines.append('<text x="4" y="12">MiB</text></svg>')
    return "\n".join(lines) + "\n"


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page with the measurements."""
    peaks = [max(size for _, size in run["samples"]) for run in runs]
    rows = [
        f"| {run['count']:,} | {run['samples'][-1][0]:.0f} s | {peak:.0f} MiB |"
        for run, peak in zip(runs, peaks, strict=True)
    ]
    versions = f"torch {version('torch')}, pyarrow {version('pyarrow')}"
    lines = [
        "# Memory over a million rows",
        "",
        "This page is for readers who want to know whether the memory of a run grows with the "
        "number of images.",
        "",
        f"`tools/soak_embed.py` measured it on {date.today()} with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {versions}: images of {SIDE} x {SIDE} pixels in Parquet "
        f"files, an encoder with one linear layer and {DIM} outputs, and default settings. The "
        "peak is the sum of the resident sets of the process and of its decoders. Memory that they "
        "share counts in each.",
        "",
        "| images | time | peak |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"The difference is {peaks[1] - peaks[0]:.0f} MiB. The limit is {ALLOWED} MiB.",
        "",
        "![The resident set over each run](memory.svg)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure both runs, and write the page and the drawing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    runs = [in_a_process(10_000), in_a_process(arguments.images)]
    text = page(runs)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    if arguments.svg:
        arguments.svg.write_text(drawing(runs))


if __name__ == "__main__":
    main()
