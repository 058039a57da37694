"""Whether a median has changed: a percentile bootstrap of the ratio of two medians (Efron, 1979).

Timings that follow each other are not independent: a busy second makes many of them slow at once. So blocks
of neighbours are drawn and not single runs (Kunsch, 1989), and a change counts only beyond a floor, since two
runs of one program differ by more than either can know of (Kalibera and Jones, "Rigorous benchmarking in
reasonable time", 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.99  # several figures are looked at in one comparison
FLOOR = 0.05  # of the median: what differs by less between two runs is not called a change
SEED = 17
MOST = 4096  # samples that are drawn from; more are thinned, evenly


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


def compare_medians(before: Sequence[float], after: Sequence[float], *, floor: float = FLOOR) -> Change:
    """Compare two lists of samples, in the order in which they were taken; at least two each, all above 0."""
    rng = np.random.default_rng(SEED)
    first, second = (_medians(np.asarray(samples, np.float64), rng) for samples in (before, after))
    low, high = np.quantile(second / first, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ratio = float(np.median(after) / np.median(before))
    return Change(ratio, float(low), float(high), bool(low > 1 + floor or high < 1 / (1 + floor)))


def _medians(samples: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Medians of resamples made of blocks as long as the root of the number of samples."""
    samples = samples[:: math.ceil(len(samples) / MOST)]
    length = max(1, math.isqrt(len(samples)))
    blocks = math.ceil(len(samples) / length)
    starts = rng.integers(0, len(samples) - length + 1, (RESAMPLES, blocks))
    offsets = np.arange(length)
    return np.array([np.median(samples[(row[:, None] + offsets).ravel()]) for row in starts])
