"""What a comparison returns, as frozen values and as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from headstrip.attributes.measures import Interval
from headstrip.compare.costs import Costs
from headstrip.compare.verdicts import Verdict

Status = Literal["compared", "dropped", "failed", "left out"]


@dataclass(frozen=True)
class AttributeMeasures:
    """What one backbone scores for one attribute.

    Attributes:
        name: The attribute.
        kind: Its kind.
        images: Number of images with a label.
        probe: Measures of the linear probe by name, as ``headstrip fit`` has them.
        neighbors: Measures of the 5 nearest neighbours by name.
        strengths: The strength of the penalty that was chosen in each fold.
        converged: Whether every optimisation converged.
    """

    name: str
    kind: str
    images: int
    probe: Mapping[str, Interval]
    neighbors: Mapping[str, Interval]
    strengths: tuple[float, ...]
    converged: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "images": self.images,
            "probe": {name: interval_json(one) for name, one in self.probe.items()},
            "neighbors": {name: interval_json(one) for name, one in self.neighbors.items()},
            "strengths": list(self.strengths),
            "converged": self.converged,
        }


@dataclass(frozen=True)
class ComparedBackbone:
    """One backbone of a comparison.

    Attributes:
        name: Its name.
        status: ``compared``; ``dropped``: measured on some images, then left for lack of time;
            ``failed``; ``left out``: by a filter.
        reason: Why it was not compared on all images; None for ``compared``.
        images: Number of images that it was measured on.
        score: The number that backbones are ranked by, from 0 to 1: the mean over the attributes
            of accuracy, mAP or R2 of the linear probe. None if it was not measured.
        verdict: How it compares with the best; None if it was not compared.
        attributes: Each attribute.
        costs: What it costs; None if it was not embedded.
        missing: Images that only this backbone could not embed. They count as embeddings of zeros.
    """

    name: str
    status: Status
    reason: str | None = None
    images: int = 0
    score: Interval | None = None
    verdict: Verdict | None = None
    attributes: tuple[AttributeMeasures, ...] = ()
    costs: Costs | None = None
    missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        verdict = self.verdict
        return {
            "name": self.name,
            "status": self.status,
            "reason": self.reason,
            "images": self.images,
            "score": None if self.score is None else interval_json(self.score),
            "verdict": None
            if verdict is None
            else {**asdict(verdict), "text": verdict.text(self.images)},
            "attributes": [one.to_json() for one in self.attributes],
            "costs": None if self.costs is None else self.costs.to_json(),
            "missing": self.missing,
        }


@dataclass(frozen=True, slots=True)
class Control:
    """Something that every backbone should beat.

    Attributes:
        name: What it is.
        score: Its score; None if it could not be measured.
        reason: Why not.
    """

    name: str
    score: Interval | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        score = None if self.score is None else interval_json(self.score)
        return {"name": self.name, "score": score, "reason": self.reason}


@dataclass(frozen=True)
class Confusions:
    """What the recommended backbone confuses, for one attribute of kind ``class``.

    Attributes:
        attribute: Name of the attribute.
        classes: The classes.
        table: How many images of each class (rows) are predicted as each class (columns).
        worst: Paths of wrongly predicted images with class, predicted class and its probability,
            the most confident first.
    """

    attribute: str
    classes: tuple[str, ...]
    table: np.ndarray = field(repr=False)
    worst: tuple[tuple[str, str, str, float], ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        keys = ("path", "class", "predicted", "probability")
        return {
            "attribute": self.attribute,
            "classes": list(self.classes),
            "table": self.table.tolist(),
            "worst": [dict(zip(keys, one, strict=True)) for one in self.worst],
        }


@dataclass(frozen=True)
class Comparison:
    """What ``compare_backbones`` returns.

    Attributes:
        data: The images, as the caller named them.
        images: Number of images with a label that can be read.
        copies: Number of these that are copies of others.
        bad_images: Why images with a label cannot be read, by path.
        backbones: The backbones: compared ones with the best first, then the others.
        controls: The controls.
        recommended: Name of the cheapest backbone that is not distinguishable from the best, or
            None.
        images_to_separate: About how many images it takes to separate the best two; None if there
            are no two, or their scores are equal.
        warnings: Sentences that come first, such as about controls that beat a backbone.
        notes: Other sentences, such as about labels that were left out.
        skipped: Why attributes were not measured, by name.
        confusions: What the recommended backbone confuses.
        seed: The seed.
        path_column: The column of the data with the paths.
    """

    data: str
    images: int
    copies: int
    bad_images: Mapping[str, str] = field(repr=False)
    backbones: tuple[ComparedBackbone, ...]
    controls: tuple[Control, ...]
    recommended: str | None
    images_to_separate: int | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: Mapping[str, str]
    confusions: tuple[Confusions, ...] = field(repr=False)
    seed: int
    path_column: str = "path"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "data": self.data,
            "images": self.images,
            "copies": self.copies,
            "bad_images": dict(self.bad_images),
            "backbones": [one.to_json() for one in self.backbones],
            "controls": [one.to_json() for one in self.controls],
            "recommended": self.recommended,
            "images_to_separate": self.images_to_separate,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "skipped": dict(self.skipped),
            "confusions": [one.to_json() for one in self.confusions],
            "seed": self.seed,
        }


def interval_json(one: Interval) -> dict[str, float | None]:
    """Return an interval as JSON has it."""
    values = {"value": one.value, "low": one.low, "high": one.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
