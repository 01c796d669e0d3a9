"""Measure how long it takes to fit predictors with headstrip and with scikit-learn.

Both get the same embeddings, the same parts and the same grid of strengths. headstrip fits all
attributes in one call; scikit-learn gets a ``LogisticRegression`` per attribute and strength, which
is fitted to the training part and compared on the validation part, and one more that is fitted to
both. The embeddings are drawn: their variances fall as those of real embeddings do, and labels
follow from them with noise. Quote the ratios.

    python benchmarks/fit.py                                  11 attributes on 10,000 x 2,048
    python benchmarks/fit.py --rows 2000 --dim 256 --attributes 3
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstrip import FittedPredictors, fit_predictors
from headstrip.attributes.fit import STRENGTHS

CLASSES = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3)
MISSING = 0.15
PARTS = {"train": 0.64, "validation": 0.16, "test": 0.2}


def drawn(rows: int, dim: int, attributes: int) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Return float32 embeddings, and a table of labels and parts."""
    generator = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.5
    rotation = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    latent = generator.normal(size=(rows, dim))
    points = np.maximum((latent * spectrum) @ rotation + 0.02, 0).astype(np.float32)
    table: dict[str, list[Any]] = {
        "path": [f"{row:07d}.jpg" for row in range(rows)],
        "part": generator.choice(list(PARTS), rows, p=list(PARTS.values())).tolist(),
    }
    for number, classes in enumerate(CLASSES[:attributes]):
        scores = latent[:, :64] @ generator.normal(size=(64, classes)) / 4
        scores += generator.gumbel(size=scores.shape)
        is_missing = generator.random(rows) < MISSING
        table[f"attribute {number}"] = [
            None if gap else f"class {one:02d}"
            for gap, one in zip(is_missing, scores.argmax(1), strict=True)
        ]
    return points, table


def of_headstrip(points: np.ndarray, table: dict[str, list[Any]]) -> FittedPredictors:
    """Fit every attribute."""
    return fit_predictors(points, table, paths=table["path"], split_column="part")


def of_scikit_learn(points: np.ndarray, table: dict[str, list[Any]], name: str) -> dict[str, float]:
    """Fit one attribute over the grid, and return its strength and its held-out log loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = np.array([cell is not None for cell in table[name]])
    labels = np.array([cell or "" for cell in table[name]])
    parts = np.array(table["part"])
    points = points.astype(np.float64)

    def fitted(rows: np.ndarray, strength: float) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1_000))
        return model.fit(points[rows], labels[rows])

    def loss(model: Any, rows: np.ndarray) -> float:
        return float(
            log_loss(labels[rows], model.predict_proba(points[rows]), labels=model.classes_)
        )

    train, validation, test = (known & (parts == part) for part in PARTS)
    best = min(STRENGTHS, key=lambda strength: loss(fitted(train, strength), validation))
    return {"strength": best, "log_loss": loss(fitted(train | validation, best), test)}


def measure(rows: int, dim: int, attributes: int, compared: int) -> dict[str, Any]:
    """Time both, and compare the held-out log losses."""
    points, table = drawn(rows, dim, attributes)
    started = time.perf_counter()
    reports = of_headstrip(points, table).report["attributes"]
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {
        "rows": rows,
        "dim": dim,
        "attributes": attributes,
        "strengths": len(STRENGTHS),
        "headstrip_seconds": round(seconds, 1),
        "compared": {},
    }
    taken = 0.0
    for name in list(reports)[:compared]:
        started = time.perf_counter()
        theirs = of_scikit_learn(points, table, name)
        taken += time.perf_counter() - started
        mine = reports[name]
        found["compared"][name] = {
            "classes": mine["outputs"],
            "strength": mine["strength"],
            "log_loss": round(mine["measures"]["log_loss"]["value"], 6),
            "sklearn_strength": theirs["strength"],
            "sklearn_log_loss": round(theirs["log_loss"], 6),
        }
        print(json.dumps({name: found["compared"][name]}), flush=True)
    if compared:
        found["sklearn_seconds_per_attribute"] = round(taken / compared, 1)
        found["ratio"] = round(taken / compared * attributes / seconds, 1)
    return found


def main() -> None:
    """Measure, print the result and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--attributes", type=int, default=11)
    parser.add_argument("--compared", type=int, help="attributes for scikit-learn; default: all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    compared = options.attributes if options.compared is None else options.compared
    warnings.simplefilter("ignore")
    result = {
        "environment": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        },
        **measure(options.rows, options.dim, options.attributes, compared),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
