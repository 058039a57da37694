"""Whether a median has changed: a percentile bootstrap of the ratio of two medians (Efron, 1979).

Timings that follow each other are not independent: a busy second makes many of them slow at once, and where
an interpreter lies in memory moves all of its times. So repeats are drawn first, then blocks of neighbours
within them (Kunsch, 1989), and a change counts only beyond a floor, since two runs of one program differ by
more than either can know of (Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
CONFIDENCE = 0.99  # several figures are looked at in one comparison
FLOOR = 0.1  # of the median: what differs by less between two runs is not called a change
SEED = 17
MOST = 500  # samples of one repeat that are drawn from
Samples = npt.NDArray[np.float64]
Repeats = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Change:
    """After over before: above 1 is slower.

    Attributes:
        ratio: of the medians.
        low: end of the interval of the ratio.
        high: the other end.
        changed: the whole interval lies beyond the floor.
    """

    ratio: float
    low: float
    high: float
    changed: bool


def compare_medians(before: Repeats, after: Repeats, *, floor: float = FLOOR) -> Change:
    """Compare repeats of one thing: lists of samples above 0, each in the order in which they were taken."""
    rng = np.random.default_rng(SEED)
    first, second = (
        _medians([np.asarray(r, np.float64) for r in repeats], rng) for repeats in (before, after)
    )
    return _change(median(after) / median(before), second / first, floor)


def _change(ratio: float, ratios: Samples, floor: float) -> Change:
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Change(ratio, float(low), float(high), bool(low > 1 + floor or high < 1 / (1 + floor)))


def compare_means(before: Sequence[float], after: Sequence[float], *, floor: float) -> Change:
    """Compare values above 0 by seed; the same seeds are drawn for both where they are as many."""
    rng = np.random.default_rng(SEED)
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    drawn = rng.integers(0, len(first), (RESAMPLES, len(first)))
    paired = drawn if len(first) == len(second) else rng.integers(0, len(second), (RESAMPLES, len(second)))
    ratios = second[paired].mean(axis=1) / first[drawn].mean(axis=1)
    return _change(mean([after]) / mean([before]), ratios, floor)


def mean(repeats: Repeats) -> float:
    """Of all samples of all repeats."""
    return float(np.mean(np.concatenate([np.asarray(repeat, np.float64) for repeat in repeats])))


def median(repeats: Repeats) -> float:
    """Of all samples of all repeats."""
    return float(np.median(np.concatenate([np.asarray(repeat, np.float64) for repeat in repeats])))


def _medians(repeats: Sequence[Samples], rng: np.random.Generator) -> Samples:
    """Medians of resamples: as many repeats as there are, each made of blocks of one that was drawn."""
    thinned = [samples[:: math.ceil(len(samples) / MOST)] for samples in repeats]
    size = min(map(len, thinned))
    table = np.array([samples[:size] for samples in thinned])
    length = max(1, math.isqrt(size))
    blocks = math.ceil(size / length)
    chosen = rng.integers(0, len(table), (RESAMPLES, len(table), 1, 1))
    starts = rng.integers(0, size - length + 1, (RESAMPLES, len(table), blocks, 1))
    drawn = table[chosen, starts + np.arange(length)]
    return np.asarray(np.median(drawn.reshape(RESAMPLES, -1), axis=1), np.float64)
