"""Measure how long it takes to list backbones: headstrip's catalog against importing libraries.

Each measurement is the wall time of a whole process. The rows alternate. Quote the ratios. The
processes use compiled bytecode, as installed packages do, whatever PYTHONDONTWRITEBYTECODE says.

    python benchmarks/listing.py [--runs 7] [--out benchmarks/listing.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = """
import torch, torchvision
from torchvision import models
names = models.list_models(module=models) + models.list_models(module=models.video)
try:
    import timm
    names += timm.list_models()
except ImportError:
    pass
print("\\n".join(names))
"""

HEADSTRIP = "from headstrip.cli import main; main()"
ROWS = {
    "python -c pass": ["-c", "pass"],
    "headstrip --help": ["-c", HEADSTRIP, "--help"],
    "headstrip list": ["-c", HEADSTRIP, "list"],
    "headstrip show vit_h_14": ["-c", HEADSTRIP, "show", "vit_h_14"],
    "import torch, torchvision, timm and list": ["-c", LIBRARIES],
}
BASELINE = "headstrip list"
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


def seconds(arguments: list[str]) -> float:
    """Run Python once and return its wall time."""
    started = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - started


def measure(runs: int) -> dict[str, list[float]]:
    """Time all rows alternately, after one warm-up each."""
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    for turn in range(runs + 1):
        for row, arguments in ROWS.items():
            taken = seconds(arguments)
            if turn:
                times[row].append(taken)
    return times


def versions() -> dict[str, str]:
    """Return the versions of the libraries."""
    found = {"python": platform.python_version()}
    for name in ("headstrip", "torch", "torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    medians = {row: statistics.median(t) for row, t in measure(arguments.runs).items()}
    print(f"{'':42} {'median s':>9} {'ratio':>7}")
    for row, median in medians.items():
        print(f"{row:42} {median:9.3f} {median / medians[BASELINE]:7.1f}")
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "runs": arguments.runs,
        "seconds": {row: round(median, 4) for row, median in medians.items()},
        "ratio": {row: round(m / medians[BASELINE], 2) for row, m in medians.items()},
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
