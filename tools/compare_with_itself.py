"""Compare a backbone with itself 200 times, and count how often one of the two is called worse.

Each comparison draws embeddings and labels, and gives two copies of the embeddings noise of
different seeds, too little to make a difference. What it finds is committed.

    python tools/compare_with_itself.py --write
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from tests.attributes.tables import clusters, names

from headstrip.compare.folds import tasks_of
from headstrip.compare.scoring import Images, evaluate
from headstrip.compare.verdicts import judge
from headstrip.system.atomic import write_atomically

TABLE = Path(__file__).parents[1] / "benchmarks" / "compare.json"
KEY = "same_backbone"
COUNT = 200
ROWS, DIM, CLASSES = 270, 32, 9
NOISE = (0.02, 0.05, 0.1, 0.2)
"""Standard deviations of the noise, as a share of that of the embeddings."""


def compared(seed: int) -> dict[str, Any]:
    """Compare two noisy copies of the embeddings that a seed draws."""
    noise = NOISE[seed % len(NOISE)]
    points, values = clusters(ROWS, DIM, CLASSES, seed=seed // len(NOISE), noise=3.5)
    rows = np.arange(ROWS)
    (task,), _ = tasks_of({"kind": [f"{value}" for value in values]}, {}, rows, names(ROWS), seed)
    images = Images.of(rows, seed, samples=1_000)
    scores = []
    for copy in range(2):
        added = np.random.default_rng([seed, copy]).normal(size=points.shape)
        noisy = (points + noise * points.std(0) * added).astype(np.float32)
        scores.append(evaluate(noisy, [task], images, neighbors=False).score)
    verdicts = judge(scores)
    return {
        "noise": noise,
        "seed": seed,
        "first": round(scores[0].value, 3),
        "second": round(scores[1].value, 3),
        "p": round(min(one.p for one in verdicts), 3),
        "winner": any(one.kind == "worse" for one in verdicts),
    }


def committed() -> list[dict[str, Any]]:
    """Return the rows of the committed table."""
    found: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))[KEY]
    return found


def text_of(content: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the text of the file: one line for each comparison."""
    lines = ",\n    ".join(map(json.dumps, rows))
    rest = {key: value for key, value in content.items() if key != KEY}
    return f'{{\n  "{KEY}": [\n    {lines}\n  ],\n' + json.dumps(rest, indent=2)[2:] + "\n"


def main() -> None:
    """Compare, print each row, and write them on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"Write {TABLE.name}.")
    options = parser.parse_args()
    rows = []
    for seed in range(COUNT):
        rows.append(compared(seed))
        print(json.dumps(rows[-1]), flush=True)
    print(f"{sum(row['winner'] for row in rows)} of {COUNT} comparisons declare a winner")
    if options.write:
        content = json.loads(TABLE.read_text(encoding="utf-8"))
        write_atomically(TABLE, text_of(content, rows).encode())


if __name__ == "__main__":
    main()
