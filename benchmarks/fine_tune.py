"""Measure what two epochs of fine-tuning add to predictors that were fitted to a frozen encoder.

The pictures are the 11 classes of Debian's tuxpaint-stamps-default, the encoder EfficientNet-Lite0
with its published weights. Each picture is in the test part of one fold per draw. For each fold
headstrip fits the predictors to embeddings of the other folds, attaches them, and trains the
encoder on the same pictures, with the running statistics of its norms frozen. The interval is a
bootstrap over pictures of the paired difference in accuracy.

    HEADSTRIP_STAMPS=/usr/share/tuxpaint/stamps python benchmarks/fine_tune.py --out fine_tune.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from headstrip import LabelledImages, build_encoder, fit_predictors

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.attributes.stamps import FOLDS, Row, copy_stamps, folds_of

NAME = "efficientnet-lite:efficientnet_lite0"
RESAMPLES = 10_000


def whole_picture() -> Any:
    """Return the preprocessing of the encoder, without the crop that cuts wide pictures."""
    steps = build_encoder(NAME).preprocessing
    assert steps is not None
    return replace(steps, resize=steps.crop, fit="contain", fill=(255, 255, 255), crop_pct=None)


def right(encoder: Any, data: Any) -> np.ndarray:
    """Return for each picture whether the encoder predicts its class."""
    found = []
    with encoder.evaluating():
        for x, targets in DataLoader(data, batch_size=16):
            x = x.contiguous(memory_format=torch.channels_last)
            found.append(encoder.predict(x)["kind"].argmax(1) == targets["kind"])
    return torch.cat(found).numpy()


def fine_tune(encoder: Any, data: Any, options: argparse.Namespace, seed: int) -> None:
    """Train the encoder with the statistics of its norms frozen."""
    torch.manual_seed(seed)
    encoder.freeze(keep="norms").train()
    groups = encoder.parameter_groups(
        lr=options.lr,
        backbone_lr=options.backbone_lr,
        layer_decay=options.layer_decay,
        weight_decay=options.weight_decay,
    )
    batches = DataLoader(data, batch_size=options.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(groups)
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps, cycle_momentum=False
    )
    for _ in range(options.epochs):
        for x, targets in batches:
            x = x.contiguous(memory_format=torch.channels_last)
            loss = encoder.predictors.loss(encoder.predict(x), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    encoder.eval()


def measure(folder: Path, rows: list[Row], options: argparse.Namespace) -> dict[str, Any]:
    """Train and test on every fold of every draw."""
    steps = whole_picture()
    paths, kinds = ([row[at] for row in rows] for at in (0, 1))
    table = {"path": paths, "kind": kinds}
    encoder = build_encoder(NAME, preprocessing=steps)
    every = LabelledImages(folder, table, encoder)
    order = {row[0]: at for at, row in enumerate(rows)}
    embeddings = encoder.embed(folder / path for path in every.paths)
    frozen, tuned = np.zeros((2, options.draws, len(rows)))
    started = time.perf_counter()
    for draw in range(options.draws):
        folds = np.array(folds_of(rows, options.seed + draw))[[order[path] for path in every.paths]]
        for fold in range(FOLDS):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            parts = np.where(folds == fold, "test", "train").tolist()
            labels = {**table, "part": [parts[every.paths.index(path)] for path in table["path"]]}
            encoder = build_encoder(NAME, preprocessing=steps)
            fitted = fit_predictors(
                embeddings, labels, paths=every.paths, encoder=encoder, split_column="part"
            )
            encoder = fitted.attach(encoder).to(memory_format=torch.channels_last)
            plain = LabelledImages(folder, table, encoder)
            augmented = steps.augmented(scale=(options.scale, 1.0))
            varied = LabelledImages(folder, table, encoder, transform=augmented)
            frozen[draw, test] = right(encoder, Subset(plain, test))
            fine_tune(encoder, Subset(varied, train), options, FOLDS * draw + fold)
            tuned[draw, test] = right(encoder, Subset(plain, test))
            line = {
                "draw": draw,
                "fold": fold,
                "frozen": round(float(frozen[draw, test].mean()), 4),
                "tuned": round(float(tuned[draw, test].mean()), 4),
                "seconds": round(time.perf_counter() - started),
            }
            print(json.dumps(line), flush=True)
    difference = (tuned - frozen).mean(0)
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(rows), (RESAMPLES, len(rows)))
    low, high = np.quantile(difference[chosen].mean(1), [0.025, 0.975])
    return {
        "pictures": len(rows),
        "frozen": round(float(frozen.mean()), 4),
        "tuned": round(float(tuned.mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "frozen_by_draw": frozen.mean(1).round(4).tolist(),
        "tuned_by_draw": tuned.mean(1).round(4).tolist(),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Measure, print the result and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--backbone-lr", type=float, default=5e-4)
    parser.add_argument("--layer-decay", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--scale", type=float, default=0.5, help="smallest share of a crop")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = copy_stamps(Path(folder) / "pictures")
        found = measure(Path(folder) / "pictures", rows, options)
    asked = {name: value for name, value in vars(options).items() if name != "out"}
    result = {
        "environment": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "torchvision", "headstrip")},
        },
        "settings": asked,
        **found,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
