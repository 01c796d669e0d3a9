"""How many images a batch has on the processor, and how many threads: the rule that loses least.

A plain run of `headstrip embed` has one rule for every network, because the bits of an embedding
depend on it. Each rule here runs blank images through each network, in turns, and the median of the
repeats counts. What a rule loses is the share of the speed of the network's own fastest rule. The
weights are random, as speed does not depend on them.

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
from headstrip.embed.allocating import keep_freed_memory
from headstrip.embed.batch_tuning import Batches, images_per_second
from headstrip.embed.layout import cores

HERE = Path(__file__).parent
BACKBONES = (
    "resnet18", "resnet50", "vit_b_16", "convnext_tiny", "efficientnet_lite0", "mobilenet_v3_small",
)  # fmt: skip
SIZES = (4, 8, 16, 32)

SECONDS = 4.0
"""How long each rule runs in each turn, at least: one run of a fast network is over too soon."""


def rules() -> dict[str, Batches]:
    """Return what is compared: one thread a batch and a batch a core, or one batch on all cores."""
    count = cores()
    return {
        f"{size} images, {threads} thread{'s' if threads > 1 else ''}": Batches(
            size, count // threads, threads
        )
        for threads in dict.fromkeys((1, count))
        for size in SIZES
    }


def measure(name: str, repeat: int) -> dict[str, float]:
    """Return the images a second of each rule."""
    encoder = headstrip_encoder(name)
    rates: dict[str, list[float]] = {rule: [] for rule in rules()}
    for _ in range(repeat):
        for rule, batches in rules().items():
            until = time.perf_counter() + SECONDS
            rates[rule].append(images_per_second(encoder, batches))
            while time.perf_counter() < until:
                rates[rule].append(images_per_second(encoder, batches))
    return {rule: statistics.median(found) for rule, found in rates.items()}


def lost(results: dict[str, dict[str, float]], rule: str) -> list[float]:
    """Return what a rule loses on each network, as a share of the fastest rule's speed."""
    return [1 - rates[rule] / max(rates.values()) for rates in results.values()]


def table(results: dict[str, dict[str, float]]) -> str:
    """Write the shares in lines, the rule that loses least at its worst first."""
    lines = ["lost against the network's fastest rule".ljust(40) + "".join(
        f"{name:>20}" for name in results) + f"{'worst':>8}{'mean':>8}"]  # fmt: skip
    for rule in sorted(rules(), key=lambda one: max(lost(results, one))):
        shares = lost(results, rule)
        lines.append(
            rule.ljust(40) + "".join(f"{share:>20.0%}" for share in shares)
            + f"{max(shares):>8.0%}{statistics.mean(shares):>8.0%}"
        )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, default=HERE / "batches.json")
    asked = parser.parse_args()
    # As `headstrip embed` does.
    keep_freed_memory()
    results = {name: measure(name, asked.repeat) for name in asked.only}
    print(table(results))
    content = {"cores": cores(), "versions": versions(), "images_per_second": results}
    asked.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
