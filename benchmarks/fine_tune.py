"""Measure what two epochs of fine-tuning add to predictors that were fitted to a frozen encoder.

The pictures are the 11 classes of Debian's tuxpaint-stamps-default, the encoder EfficientNet-Lite0
with its published weights. Each picture is in the test part of one fold per draw. For each fold
headstrip fits the predictors to embeddings of the other folds, attaches them, and trains the
encoder on the same pictures, with the running statistics of its norms frozen. With `--baseline
trained` both start from new predictors, and the frozen encoder's train for as many epochs. The
interval is a bootstrap over pictures of the paired difference in accuracy.

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


def whole_picture(size: int) -> Any:
    """Return the preprocessing of the encoder, without the crop that cuts wide pictures."""
    steps = build_encoder(NAME).preprocessing
    assert steps is not None
    side = (size, size)
    fill = (255, 255, 255)
    return replace(steps, crop=side, resize=side, fit="contain", fill=fill, crop_pct=None)


def right(encoder: Any, data: Any) -> np.ndarray:
    """Return for each picture whether the encoder predicts its class."""
    found = []
    with encoder.evaluating():
        for x, targets in DataLoader(data, batch_size=16):
            x = x.contiguous(memory_format=torch.channels_last)
            found.append(encoder.predict(x)["kind"].argmax(1) == targets["kind"])
    return torch.cat(found).numpy()


def fine_tune(
    encoder: Any, data: Any, options: argparse.Namespace, seed: int, *, frozen: bool = False
) -> None:
    """Train the encoder with the statistics of its norms frozen, or its predictors alone."""
    torch.manual_seed(seed)
    encoder.freeze(keep=None if frozen else "norms").train()
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


def one_fold(
    folder: Path, rows: list[Row], embeddings: np.ndarray, options: argparse.Namespace, at: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train on all folds but one.

    Args:
        folder: The pictures.
        rows: The pictures with their classes.
        embeddings: The embeddings of the frozen encoder, in the order of ``rows``.
        options: The settings.
        at: Number of the fold, counted over all draws.

    Returns:
        The rows of the fold, and for each whether the frozen and the trained encoder are right.
    """
    draw, fold = divmod(at, FOLDS)
    folds = np.array(folds_of(rows, options.seed + draw))
    table: dict[str, Any] = {"path": [row[0] for row in rows], "kind": [row[1] for row in rows]}
    parts = ["test" if one == fold else "train" for one in folds]
    steps = whole_picture(options.size)
    encoder = build_encoder(NAME, preprocessing=steps)
    fitted = fit_predictors(
        embeddings,
        {**table, "part": parts},
        paths=table["path"],
        encoder=encoder,
        split_column="part",
    )
    encoder = fitted.attach(encoder).to(memory_format=torch.channels_last)
    plain = LabelledImages(folder, table, encoder)
    augmented = steps.augmented(scale=(options.scale, 1.0))
    varied = LabelledImages(folder, table, encoder, transform=augmented)
    order = {path: position for position, path in enumerate(plain.paths)}
    positions = np.array([order[path] for path in table["path"]])
    test, train = np.flatnonzero(folds == fold), Subset(varied, positions[folds != fold])
    if options.baseline == "trained":
        found = []
        for is_frozen in (True, False):
            torch.manual_seed(at)
            classes = {"kind": sorted(set(table["kind"]))}
            encoder = build_encoder(NAME, preprocessing=steps, predictors=classes)
            encoder = encoder.to(memory_format=torch.channels_last)
            fine_tune(encoder, train, options, at, frozen=is_frozen)
            found.append(right(encoder, Subset(plain, positions[test])))
        return test, *found
    frozen = right(encoder, Subset(plain, positions[test]))
    fine_tune(encoder, train, options, at)
    return test, frozen, right(encoder, Subset(plain, positions[test]))


def summary(frozen: np.ndarray, tuned: np.ndarray) -> dict[str, Any]:
    """Return accuracies, and the paired difference with its interval.

    Args:
        frozen: Whether each picture is right in each draw, of shape (draws, pictures).
        tuned: The same after training.
    """
    difference = (tuned - frozen).mean(0)
    count = len(difference)
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(difference[chosen].mean(1), [0.025, 0.975])
    return {
        "pictures": count,
        "frozen": round(float(frozen.mean()), 4),
        "tuned": round(float(tuned.mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "frozen_by_draw": frozen.mean(1).round(4).tolist(),
        "tuned_by_draw": tuned.mean(1).round(4).tolist(),
    }


def measure(folder: Path, rows: list[Row], options: argparse.Namespace) -> dict[str, Any]:
    """Train and test on every fold of every draw."""
    encoder = build_encoder(NAME, preprocessing=whole_picture(options.size))
    embeddings = encoder.embed(folder / row[0] for row in rows)
    frozen, tuned = np.zeros((2, options.draws, len(rows)))
    started = time.perf_counter()
    for at in range(options.draws * FOLDS):
        test, *found = one_fold(folder, rows, embeddings, options, at)
        frozen[at // FOLDS, test], tuned[at // FOLDS, test] = found
        means = [round(float(one.mean()), 4) for one in found]
        seconds = round(time.perf_counter() - started)
        print(json.dumps({"fold": at, "frozen, tuned": means, "seconds": seconds}), flush=True)
    return {**summary(frozen, tuned), "seconds": round(time.perf_counter() - started)}


def main() -> None:
    """Measure, print the result and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw")
    parser.add_argument(
        "--baseline",
        choices=("fit", "trained"),
        default="fit",
        help="predictors of the frozen encoder: fitted, or trained for as many epochs",
    )
    parser.add_argument("--size", type=int, default=224, help="pixels of the input")
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
    asked = {
        name: value for name, value in vars(options).items() if name not in {"baseline", "out"}
    }
    result = {
        "environment": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "torchvision", "headstrip")},
        },
        f"{options.baseline}_{options.size}": {"settings": asked, **found},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        if options.out.exists():
            # The other baseline and other sizes.
            text = json.dumps({**json.loads(options.out.read_text("utf-8")), **result}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
