"""Which backbone is best, and which cannot be distinguished from it on these images.

Each pair of backbones is compared on the same images: the bootstrap gives the spread of the
difference of their scores. The same images also decide which backbone is the best. So Holm's method
corrects the p-values of all pairs, and not only of the pairs with the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np

from headstrip.compare.scoring import Score

LEVEL = 0.05
_POWER = 0.8
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between the scores of two backbones on the same images.

    Attributes:
        value: Score of the first minus score of the second.
        low: 2.5 % quantile over bootstrap samples.
        high: 97.5 % quantile.
        error: Standard error.
        p: Probability of such a difference if the backbones are equal; two-sided, not corrected.
    """

    value: float
    low: float
    high: float
    error: float
    p: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The comparison of one backbone with the best.

    Attributes:
        kind: ``best``; ``tied``: not distinguishable from the best on these images; ``worse``.
        low: Lower end of the interval of the difference from the best, in points (hundredths of the
            score); 0 for the best.
        high: Upper end of the interval.
        p: Corrected p-value; 1 for the best.
    """

    kind: Literal["best", "tied", "worse"]
    low: float
    high: float
    p: float

    def text(self, images: int) -> str:
        """Return the verdict in words.

        Args:
            images: Number of images of the comparison.

        Example:
            >>> Verdict("worse", 3.14, 5.38, 0.001).text(272)
            'worse by 3.1 to 5.4 points'
            >>> Verdict("tied", -1.0, 2.0, 0.6).text(272)
            'not distinguishable from the best on these 272 images'
        """
        if self.kind == "best":
            return "best"
        if self.kind == "tied":
            return f"not distinguishable from the best on these {images:,} images"
        return f"worse by {self.low:.1f} to {self.high:.1f} points"


def difference(one: Score, other: Score) -> Difference:
    """Compare two backbones on the same images.

    The p-value comes from a normal distribution with the spread of the bootstrap. First the largest
    contribution of one group of images is subtracted from the difference, as in McNemar's test with
    Edwards' correction. Without this, the bootstrap finds too many winners if two backbones differ
    on few images only.
    """
    value = one.value - other.value
    samples = one.samples - other.samples
    samples = samples[~np.isnan(samples)]
    groups = len(one.shares)
    if len(samples) < 2 or groups < 2:
        return Difference(value, -math.inf, math.inf, math.inf, 1.0)
    low, high = np.quantile(samples, [0.025, 0.975]).tolist()
    error = float(samples.std() * math.sqrt(groups / (groups - 1))) * max(one.spread, other.spread)
    beyond = abs(value) - float(np.abs(one.shares - other.shares).max())
    p = 1.0
    if beyond > 0:
        p = math.erfc(beyond / error / math.sqrt(2)) if error > 0 else 0.0
    return Difference(value, low, high, error, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's method.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = largest
    return corrected


def judge(scores: Sequence[Score]) -> list[Verdict]:
    """Compare each backbone with the best; if several are equally good, the first is the best."""
    if not scores:
        return []
    best = max(range(len(scores)), key=lambda at: (scores[at].value, -at))
    pairs = list(combinations(range(len(scores)), 2))
    found = {pair: difference(scores[pair[0]], scores[pair[1]]) for pair in pairs}
    corrected = dict(zip(pairs, holm([found[pair].p for pair in pairs]), strict=True))
    verdicts = []
    for at in range(len(scores)):
        if at == best:
            verdicts.append(Verdict("best", 0.0, 0.0, 1.0))
            continue
        pair = (min(best, at), max(best, at))
        one, p = found[pair], corrected[pair]
        low, high = (one.low, one.high) if pair[0] == best else (-one.high, -one.low)
        is_worse = p < LEVEL and low > 0
        verdicts.append(Verdict("worse" if is_worse else "tied", 100 * low, 100 * high, p))
    return verdicts


def images_to_separate(one: Score, other: Score, images: int, backbones: int = 2) -> int | None:
    """Estimate how many such images would separate two backbones, with a power of 80 %.

    The estimate assumes that the measured difference is the true difference. It uses the level that
    Holm's method requires of the smallest p-value of all pairs.

    Args:
        one: A score.
        other: The score of another backbone on the same images.
        images: Number of these images.
        backbones: Number of compared backbones.

    Returns:
        The number, larger than ``images`` if these images do not separate the two. None if no
        estimate is possible, because the scores are equal or their spread is unknown.
    """
    found = difference(one, other)
    if not found.value or not math.isfinite(found.error):
        return None
    level = LEVEL / math.comb(backbones, 2)
    normal = _NORMAL.inv_cdf(1 - level / 2) + _NORMAL.inv_cdf(_POWER)
    count = math.ceil(images * (normal * found.error / found.value) ** 2)
    return max(images + 1 if found.p >= level else 2, count)
