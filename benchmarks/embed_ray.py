"""Measure embedding the same folder in one process, and with Ray on the same machine.

Each measurement runs in a new process, after all imports. The time does not contain the start of
Ray's cluster, but contains the start of its actor. The script runs two sizes, to separate the cost
of starting from the cost per image.

    python benchmarks/embed_ray.py
    python benchmarks/embed_ray.py --images 500 2000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from embed_ways import headstrip_encoder

from embed import make_photographs, versions

HERE = Path(__file__).parent
NAME, DISTINCT = "efficientnet_lite0", 400


def run(way: str, folder: Path, out: Path) -> float:
    """Embed a folder in this process or with Ray, and return the seconds."""
    from headstrip import EmbedSettings
    from headstrip.embed.run import embed_source

    encoder, compute = headstrip_encoder(NAME), None
    if way == "ray":
        import ray

        from headstrip.embed.cluster import on_ray

        ray.init(include_dashboard=False, log_to_driver=False)
        compute = on_ray()
    settings = EmbedSettings(batch_size=4, threads=1)
    started = time.perf_counter()
    embed_source(encoder, folder, out, settings=settings, compute=compute)
    return time.perf_counter() - started


def measure(way: str, folder: Path, out: Path) -> float:
    """Run one way in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--run", way, str(folder), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    return float(ended.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, nargs=2, default=[2000, 10_000])
    parser.add_argument("--json", type=Path, default=HERE / "embed_ray.json")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        way, folder, out = arguments.run
        print(run(way, Path(folder), Path(out)))
        return
    temporary = Path(tempfile.mkdtemp())
    seconds: dict[str, list[float]] = {"here": [], "ray": []}
    try:
        make_photographs(temporary / "distinct", DISTINCT)
        distinct = sorted((temporary / "distinct").iterdir())
        for count in arguments.images:
            folder = temporary / f"photographs{count}"
            folder.mkdir()
            for number in range(count):
                os.link(distinct[number % DISTINCT], folder / f"{number:06d}.jpg")
            files = {}
            for way, found in seconds.items():
                files[way] = temporary / f"{way}{count}.parquet"
                found.append(measure(way, folder, files[way]))
            assert files["here"].read_bytes() == files["ray"].read_bytes(), "the rows differ"
    finally:
        shutil.rmtree(temporary)
    few, many = arguments.images
    each = {way: (found[1] - found[0]) / (many - few) for way, found in seconds.items()}
    print(f"{'images':>8} {'here, s':>9} {'ray, s':>9} {'ray takes':>10}")
    for count, here, there in zip(arguments.images, seconds["here"], seconds["ray"], strict=True):
        print(f"{count:>8} {here:>9.1f} {there:>9.1f} {there / here:>9.2f}x")
    print(
        f"{'each':>8} {each['here']:>9.4f} {each['ray']:>9.4f} {each['ray'] / each['here']:>9.2f}x"
    )
    content = {
        "cores": os.cpu_count(),
        "versions": versions(),
        "backbone": NAME,
        "images": arguments.images,
        "seconds": seconds,
    }
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
