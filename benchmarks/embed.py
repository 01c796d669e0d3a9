"""Measure embedding photographs into a Parquet file with headstrip and in other ways.

Each measurement runs in a new process. The ways alternate, and the result is the median of the
repeats. All ways except "headstrip calibrated" compute in fp32 with eager torch. "headstrip" is the
command without options. "headstrip calibrated" uses the options that `headstrip embed --calibrate`
printed before; the measured time contains the conversion of the network for its engine
("preparing"). The floor is a lower bound for any pipeline: the processor time of the network alone,
on decoded batches, plus that of decoding and resizing alone, divided by the number of cores. Quote
the ratios. The photographs are crops of those in scikit-image.

    python benchmarks/embed.py                                   all of it
    python benchmarks/embed.py --only resnet50 --repeat 1 --ways headstrip loop
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from embed_ways import WAYS
from PIL import Image

HERE = Path(__file__).parent
BACKBONES = ("resnet50", "vit_b_16", "efficientnet_lite0")
IMAGES, WARM, SIZE = 400, 64, (500, 375)
LIMIT = 1800
PEERS = [way for way in WAYS if not way.startswith("headstrip")]


def make_photographs(folder: Path, count: int) -> None:
    """Write crops of scikit-image's photographs, 500 x 375 pixels and some larger."""
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    sources = [data.astronaut(), data.coffee(), data.rocket(), data.hubble_deep_field()]
    generator = np.random.default_rng(0)
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        scale = float(generator.uniform(0.6, 1.0))
        width, height = int(source.width * scale), int(source.height * scale)
        left = int(generator.integers(0, source.width - width + 1))
        top = int(generator.integers(0, source.height - height + 1))
        size = SIZE if number % 4 else (800, 600)
        cut = source.crop((left, top, left + width, top + height)).resize(size)
        cut.save(folder / f"{number:04d}.jpg", quality=90)


def measure(way: str, name: str, photographs: Path) -> dict[str, float] | None:
    """Measure one way in a new process. If it fails, print the reason and return None."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(HERE / "embed_ways.py"),
            way,
            name,
            str(photographs),
            str(Path(folder) / "out.parquet"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        print(f"{name}: {way} failed: {ended.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def compare(name: str, ways: list[str], photographs: Path, repeat: int) -> dict[str, Any]:
    """Measure all ways for one backbone, alternately."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    prepared: dict[str, list[float]] = {way: [] for way in ways}
    floors: list[dict[str, float]] = []
    for _ in range(repeat):
        for way in ways:
            found = measure(way, name, photographs)
            if found is not None:
                rates[way].append(found["images"] / found["seconds"])
                prepared[way].append(found["prepared"])
        found = measure("floor", name, photographs)
        if found is not None:
            floors.append(found)
    count = len(list(photographs.glob("*.jpg")))
    decode = statistics.median(each["decode"] for each in floors)
    forward = statistics.median(each["forward"] for each in floors)
    return {
        "images_per_second": {way: statistics.median(r) for way, r in rates.items() if r},
        "preparing_seconds": {
            way: statistics.median(each) for way, each in prepared.items() if any(each)
        },
        "floor": {
            "decode_seconds": decode,
            "forward_seconds": forward,
            "images_per_second": count * (os.cpu_count() or 1) / (decode + forward),
        },
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with images per second and headstrip's ratios."""
    lines = [
        f"{'backbone':<20} {'way':<20} {'images/s':>9} {'headstrip is':>13} {'calibrated is':>14}"
    ]
    for name, result in results.items():
        rates, floor = result["images_per_second"], result["floor"]["images_per_second"]
        ours, calibrated = rates.get("headstrip"), rates.get("headstrip calibrated")
        rows = sorted(rates.items(), key=lambda pair: -pair[1])
        for way, rate in [("the floor", floor), *rows]:
            ratios = [f"{each / rate:.2f}x" if each else "" for each in (ours, calibrated)]
            lines.append(f"{name:<20} {way:<20} {rate:>9.1f} {ratios[0]:>13} {ratios[1]:>14}")
        if seconds := result["preparing_seconds"].get("headstrip calibrated"):
            lines.append(f"{name:<20} preparing takes {seconds:.1f} s of the calibrated run")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of the libraries."""
    found = {"python": platform.python_version()}
    for name in ("headstrip", "torch", "torchvision", "timm", "transformers", "ray", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--json", type=Path, default=HERE / "embed.json")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        make_photographs(folder / "photographs", arguments.images)
        make_photographs(folder / "photographs-warm", WARM)
        results = {
            name: compare(name, arguments.ways, folder / "photographs", arguments.repeat)
            for name in arguments.only
        }
    finally:
        shutil.rmtree(folder)
    print(table(results))
    content = {"cores": os.cpu_count(), "versions": versions(), "results": results}
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
