"""Compare rules for the batch size and the threads of a run on the CPU.

The bits of an embedding depend on the batches, so a plain run of `headstrip embed` has one rule for
every network. This script runs blank images through six networks under each rule. The rules
alternate, and the result is the median of the repeats. The table shows what each rule loses against
the fastest rule for the same network. The weights are random, because the speed does not depend on
them.

    python benchmarks/batches.py
    python benchmarks/batches.py --only resnet18 --repeat 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from embed_ways import headstrip_encoder

from embed import versions
from headstrip.embed.calibrate_batches import images_per_second
from headstrip.embed.parallelism import Parallelism, choose_parallelism, cores
from headstrip.embed.settings import EmbedSettings
from headstrip.system.allocator import keep_freed_memory

BACKBONES = (
    "resnet18",
    "resnet50",
    "vit_b_16",
    "convnext_tiny",
    "efficientnet_lite0",
    "mobilenet_v3_small",
)
SIZES = (4, 8, 16, 32)
SECONDS = 4.0
"""Shortest time of one measurement. A fast network would otherwise run only for an instant."""


def rules() -> dict[str, Parallelism]:
    """Return the rules: a batch per core with one thread each, or one batch on all cores."""
    return {
        f"{size} images, {threads} thread{'s' if threads > 1 else ''}": choose_parallelism(
            EmbedSettings(batch_size=size, threads=threads)
        )
        for threads in dict.fromkeys((1, cores()))
        for size in SIZES
    }


def measure(name: str, repeat: int) -> dict[str, float]:
    """Return the images per second under each rule."""
    encoder = headstrip_encoder(name)
    rates: dict[str, list[float]] = {rule: [] for rule in rules()}
    for _ in range(repeat):
        for rule, running in rules().items():
            until = time.perf_counter() + SECONDS
            rates[rule].append(images_per_second(encoder, running))
            while time.perf_counter() < until:
                rates[rule].append(images_per_second(encoder, running))
    return {rule: statistics.median(found) for rule, found in rates.items()}


def lost(results: dict[str, dict[str, float]], rule: str) -> list[float]:
    """Return what a rule loses on each network: a share of the fastest rule's speed."""
    return [1 - rates[rule] / max(rates.values()) for rates in results.values()]


def table(results: dict[str, dict[str, float]]) -> str:
    """Return a table of the lost shares, with the smallest worst loss first."""
    lines = [
        "lost against the network's fastest rule".ljust(40)
        + "".join(f"{name:>20}" for name in (*results, "worst", "mean"))
    ]
    for rule in sorted(rules(), key=lambda one: max(lost(results, one))):
        shares = lost(results, rule)
        shown = (*shares, max(shares), statistics.mean(shares))
        lines.append(rule.ljust(40) + "".join(f"{share:>20.0%}" for share in shown))
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the speeds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    # `headstrip embed` does this too.
    keep_freed_memory()
    results = {name: measure(name, arguments.repeat) for name in arguments.only}
    print(table(results))
    content = {"cores": cores(), "versions": versions(), "images_per_second": results}
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
