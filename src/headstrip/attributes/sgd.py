"""Fit predictors to embeddings that do not fit in memory: AdamW over mini-batches of a file.

All attributes are fitted in the same passes over the file. Their heads share only the order of the
rows. So a head is the same whether it is fitted alone or together with others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstrip.attributes.held_out import held_out_of
from headstrip.attributes.joining import Joined
from headstrip.attributes.measures import best_temperature
from headstrip.attributes.one_attribute import (
    AttributeFit,
    Settings,
    divided,
    generator_of,
    majority,
    measured,
    notes_on_classes,
    plain,
    seen,
    too_few,
    truth_of,
    unseen_classes,
)
from headstrip.attributes.splitting import TEST, TRAIN, VALIDATION
from headstrip.attributes.standardize import Scale
from headstrip.attributes.streaming import shuffled_batches
from headstrip.attributes.targets import Target
from headstrip.embed.output.loading import Block, EmbeddingsFile
from headstrip.errors import HeadstripError
from headstrip.system.memory import memory_limit, shown_bytes

_log = logging.getLogger("headstrip.attributes")

_BATCHES = (32, 512)
"""Smallest and largest number of rows of a batch."""

_STEPS = 64
"""Smallest number of batches per epoch, unless the batches would be too small."""

RATE = 5e-3
"""Learning rate of the first epochs."""

_EPOCHS = 100
_SLOWER = 4
"""The divisor of the learning rate after an epoch that did not decrease the validation loss."""

_DROPS = 3
"""Number of such divisions after which the fit ends."""

_GAIN = 1e-3
"""Smallest relative decrease of the validation loss that counts."""


def fit_streamed(
    file: EmbeddingsFile,
    joined: Joined,
    targets: Sequence[Target],
    groups: np.ndarray,
    given: np.ndarray | None,
    settings: Settings,
    notify: Callable[[str], None],
) -> tuple[list[AttributeFit], dict[str, str]]:
    """Fit the predictors of all attributes.

    Args:
        file: The embeddings.
        joined: The images with labels, without their embeddings.
        targets: The labels of each attribute.
        groups: Group of each image; all images of a group go into the same part.
        given: Part of each image, None to divide them here.
        settings: The settings.
        notify: Called with the name of each attribute that is fitted.

    Returns:
        The predictors, and the attributes that have too few images, with the reasons.

    Raises:
        HeadstripError: The outputs for the held-out images do not fit in memory.
    """
    tasks: list[_Task] = []
    failed: dict[str, str] = {}
    for target in targets:
        whole, own, parts = divided(joined, target, groups, given, settings)
        reason = too_few(whole, parts, own, has_parts=given is not None)
        if reason is not None:
            failed[target.attribute.name] = reason
        else:
            tasks.append(_Task(file, joined, whole, parts, settings))
    _check_memory(tasks)
    _standardize(file, tasks)
    generator = np.random.default_rng(settings.seed)
    size = int(np.clip(file.rows // _STEPS, *_BATCHES))
    for epoch in range(1, _EPOCHS + 1):
        active = [task for task in tasks if not task.is_done]
        if not active:
            break
        for rows, embeddings in shuffled_batches(file, size, generator):
            points = torch.from_numpy(embeddings)
            for task in active:
                task.step(rows, points)
        for block in file.blocks():
            for task in active:
                task.validate(block)
        for task in active:
            task.end_epoch()
            if task.is_done:
                notify(task.attribute.name)
        _log.info("epoch %d of %d attributes, at most %d epochs", epoch, len(active), _EPOCHS)
    # Finish one attribute after the other, so that only one has its outputs in memory.
    return [task.finished(file, len(joined.paths)) for task in tasks], failed


class _Head:
    """A linear layer that is trained on standardised embeddings until it stops improving."""

    def __init__(self, dim: int, outputs: int, seed: int) -> None:
        # On the meta device nn.Linear does not draw from torch's global generator.
        self.layer = nn.Linear(dim, outputs, device="meta").to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        nn.init.kaiming_normal_(self.layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(self.layer.bias)
        self.rate, self.drops, self.losses = RATE, 0, list[float]()
        self.lowest, self.sum, self.count = float("inf"), 0.0, 0
        self._keep()
        self._restart()

    @property
    def is_done(self) -> bool:
        return self.drops > _DROPS

    def step(self, points: Tensor, target: _Loss, values: Tensor) -> None:
        self.optimizer.zero_grad()
        target.of(self.layer(points), values).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def end_epoch(self) -> None:
        """Keep the layer, or go back to the best one and continue more slowly."""
        loss, self.sum, self.count = self.sum / max(1, self.count), 0.0, 0
        self.losses.append(loss)
        is_better = loss < self.lowest - _GAIN * abs(self.lowest) or self.lowest == float("inf")
        if loss < self.lowest:
            self.lowest = loss
            self._keep()
        if not is_better:
            self.drops, self.rate = self.drops + 1, self.rate / _SLOWER
            self.layer.load_state_dict(self.best)
            self._restart()

    def _keep(self) -> None:
        self.best = {name: value.clone() for name, value in self.layer.state_dict().items()}

    def _restart(self) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [self.layer.weight]},
            {"params": [self.layer.bias], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, fused=True)


class _Loss:
    """The loss of each row of one attribute."""

    def __init__(self, target: Target, values: np.ndarray, *, is_balanced: bool) -> None:
        self.kind, self.weights = target.attribute.kind, torch.ones(1)
        if self.kind == "class":
            counts = np.bincount(values[values >= 0])
            weights = len(values) / (len(counts) * counts) if is_balanced else np.ones(len(counts))
            self.weights = torch.from_numpy(weights).float()

    def of(self, outputs: Tensor, values: Tensor) -> Tensor:
        if self.kind == "number":
            return (outputs[:, 0] - values).square()
        if self.kind == "labels":
            return nn.functional.binary_cross_entropy_with_logits(
                outputs, values, reduction="none"
            ).mean(1)
        losses = nn.functional.cross_entropy(outputs, values, reduction="none")
        return losses * self.weights[values]


class _Task:
    """One attribute: its labels, its head, and a second head for shuffled labels."""

    def __init__(
        self,
        file: EmbeddingsFile,
        joined: Joined,
        target: Target,
        parts: np.ndarray,
        settings: Settings,
    ) -> None:
        self.target, self.parts, self.settings = target, parts, settings
        self.paths = joined.paths
        self.attribute, values = seen(target, parts == TRAIN)
        # For each row of the file: its part, -1 without a label, and its position in the labels.
        self.part_of = np.full(file.rows, -1, np.int8)
        self.position_of = np.zeros(file.rows, np.int32)
        rows = joined.rows[target.rows]
        self.part_of[rows], self.position_of[rows] = parts, np.arange(len(rows))
        self.kind, is_train = self.attribute.kind, parts == TRAIN
        self.mean, self.deviation = 0.0, 1.0
        if self.kind == "number":
            self.mean, self.deviation = values[is_train].mean(), values[is_train].std()
            values = (values - self.mean) / self.deviation
        self.values = values
        generator = generator_of(settings, self.attribute.name)
        shuffled = values.copy()
        shuffled[is_train] = generator.permutation(values[is_train])
        dtype = torch.int64 if self.kind == "class" else torch.float32
        self.labels = [torch.from_numpy(one).to(dtype) for one in (values, shuffled)]
        self.loss = _Loss(target, values[is_train], is_balanced=settings.class_weight == "balanced")
        self.plain_loss = _Loss(target, values[is_train], is_balanced=False)
        seeds = generator.integers(1 << 62, size=2).tolist()
        self.heads = [_Head(file.dim, self.attribute.outputs, seed) for seed in seeds]
        # The number, the mean and the sum of squared deviations of the rows read so far.
        self.count, self.centre, self.squares = 0, np.zeros(file.dim), np.zeros(file.dim)
        self.largest = np.zeros(file.dim)

    @property
    def is_done(self) -> bool:
        return all(head.is_done for head in self.heads)

    def outputs_bytes(self) -> int:
        held = int((self.parts != TRAIN).sum())
        return held * self.attribute.outputs * 8 * 3

    def measure(self, block: Block) -> None:
        """Add the training rows of a block to the mean and the deviation."""
        chosen = self._part(block, TRAIN)
        points = block.embeddings[chosen].astype(np.float64)
        if not len(points):
            return
        count, centre = len(points), points.mean(0)
        total, step = self.count + count, centre - self.centre
        self.squares += np.square(points - centre).sum(0)
        self.squares += np.square(step) * (self.count * count / total)
        self.centre += step * (count / total)
        self.count = total
        self.largest = np.maximum(self.largest, np.abs(points).max(0))

    def scale(self) -> None:
        deviation = np.sqrt(self.squares / self.count)
        self.scaled = Scale.from_moments(
            *map(torch.from_numpy, (self.centre, deviation, self.largest))
        )
        self.float_mean, self.factor = self.scaled.mean.float(), (1 / self.scaled.deviation).float()

    def step(self, rows: np.ndarray, points: Tensor) -> None:
        """Train on the rows of a batch that are in the training part."""
        chosen = np.flatnonzero(self.part_of[rows] == TRAIN)
        if not len(chosen):
            return
        at = torch.from_numpy(self.position_of[rows[chosen]]).long()
        points = self._standardized(points[torch.from_numpy(chosen)])
        for head, labels in zip(self.heads, self.labels, strict=True):
            if not head.is_done:
                head.step(points, self.loss, labels[at])

    @torch.inference_mode()
    def validate(self, block: Block) -> None:
        """Add the losses of the validation rows of a block, without classes of no training row."""
        chosen = self._part(block, VALIDATION)
        if self.kind == "class":
            chosen = chosen[self.values[self._positions(block, chosen)] >= 0]
        if not len(chosen):
            return
        at = torch.from_numpy(self._positions(block, chosen)).long()
        points = torch.from_numpy(block.embeddings[chosen].astype(np.float32))
        points = self._standardized(points)
        for head in [one for one in self.heads if not one.is_done]:
            losses = self.plain_loss.of(head.layer(points), self.labels[0][at])
            head.sum += float(losses.double().sum())
            head.count += len(chosen)

    def end_epoch(self) -> None:
        for head in self.heads:
            if not head.is_done:
                head.end_epoch()

    def finished(self, file: EmbeddingsFile, images: int) -> AttributeFit:
        """Measure the best layers on the held-out images of a file."""
        self._fold()
        for block in file.blocks():
            self._test(block)
        found = self._result(images)
        self.outputs.clear()
        return found

    def _fold(self) -> None:
        """Change the best layers so that they map unstandardised embeddings to original units."""
        self.layers = []
        for head in self.heads:
            weight, bias = (
                head.best[name].double() * self.deviation for name in ("weight", "bias")
            )
            weight, bias = self.scaled.folded(weight.T, bias + self.mean)
            self.layers.append((weight.float(), bias.float()))
        shape = (len(self.parts), self.attribute.outputs)
        self.held = np.flatnonzero(self.parts != TRAIN)
        self.slot_of = np.zeros(shape[0], np.int64)
        self.slot_of[self.held] = np.arange(len(self.held))
        self.outputs = [np.zeros((len(self.held), shape[1])) for _ in self.layers]

    @torch.inference_mode()
    def _test(self, block: Block) -> None:
        """Compute the outputs of the validation and test rows of a block."""
        own = self.part_of[block.start : block.start + len(block.ok)]
        chosen = np.flatnonzero((own == VALIDATION) | (own == TEST))
        slots = self.slot_of[self._positions(block, chosen)]
        points = torch.from_numpy(block.embeddings[chosen].astype(np.float64))
        for (weight, bias), outputs in zip(self.layers, self.outputs, strict=True):
            outputs[slots] = (points @ weight.double().T + bias.double()).numpy()

    def _result(self, images: int) -> AttributeFit:
        """Measure the head on the test part."""
        train, validation, test = (self.parts == one for one in (TRAIN, VALIDATION, TEST))
        held, shuffled = (one[test[self.held]] for one in self.outputs)
        temperature = 1.0
        if self.kind == "class":
            known = self.values[validation] >= 0
            logits = self.outputs[0][validation[self.held]][known]
            if known.any():
                temperature = best_temperature(self.values[validation][known], logits)
        truth = truth_of(self.target, self.attribute, test)
        fitted = self.target.values[train] if self.kind == "number" else self.values[train]
        (weight, bias), head = self.layers[0], self.heads[0]
        notes = [] if head.is_done else [f"The optimisation did not converge in {_EPOCHS} epochs."]
        report: dict[str, Any] = {
            "kind": self.kind,
            "outputs": self.attribute.outputs,
            "images": {
                "train": int(train.sum()),
                "validation": int(validation.sum()),
                "test": int(test.sum()),
                "missing": images - len(self.parts),
            },
            "strength": None,
            "epochs": [{"loss": plain(loss)} for loss in head.losses],
            "converged": head.is_done,
            "iterations": len(head.losses),
            "gradient": None,
            "temperature": temperature if self.kind == "class" else None,
            "measures": measured(self.attribute, truth, held, temperature, self.settings),
            "majority": measured(
                self.attribute, truth, majority(self.kind, fitted, held.shape), 1.0, None
            ),
            "shuffled": measured(self.attribute, truth, shuffled, 1.0, None),
            "notes": [*notes, *notes_on_classes(self.target, self.attribute)],
        }
        held_out = held_out_of(
            self.kind,
            [self.paths[row] for row in self.target.rows[test]],
            [*self.attribute.classes, *unseen_classes(self.target, self.attribute)],
            truth,
            held,
            temperature,
        )
        return AttributeFit(self.attribute, weight, bias, report, held_out)

    def _part(self, block: Block, part: int) -> np.ndarray:
        return np.flatnonzero(self.part_of[block.start : block.start + len(block.ok)] == part)

    def _positions(self, block: Block, chosen: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.position_of[block.start + chosen]
        return found

    def _standardized(self, points: Tensor) -> Tensor:
        return (points - self.float_mean) * self.factor


def _standardize(file: EmbeddingsFile, tasks: Sequence[_Task]) -> None:
    for block in file.blocks():
        for task in tasks:
            task.measure(block)
    for task in tasks:
        task.scale()


def _check_memory(tasks: Sequence[_Task]) -> None:
    needed = max((task.outputs_bytes() for task in tasks), default=0)
    limit = memory_limit()
    if limit is not None and needed > limit:
        raise HeadstripError(
            f"The outputs for the held-out images take {shown_bytes(needed)} of memory, and this "
            f"process may use {shown_bytes(limit)}. Hold out fewer images with --test (test=), or "
            "fit attributes with fewer classes."
        )
