"""A mergeable sketch of a column's distribution, for medians and quartiles of a whole fleet.

Values fall into buckets whose borders grow by a constant factor, so that a quantile is known to
within a relative error: DDSketch (Masson, Rim and Lee, VLDB 2019). Where the buckets grow too many,
each two neighbours become one and the error about doubles for all quantiles alike: UDDSketch
(Epicoco et al., IEEE Access 2020). Borders are powers of ``2 ** 2 ** (level - RESOLUTION)``, the same on
every device, so sketches of any two levels merge exactly, in any order.

The ``ddsketch`` package was looked at: it takes one value at a time in Python, too slow on a Pi for a
large table, and loses its lowest values to the limit on buckets where this one coarsens evenly.

A sketch is made coarse on purpose: a device with N values sends at most N / `VALUES_PER_BUCKET` buckets,
so that it tells how values are spread and not which they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from compression.records import Between, Length, Record, RecordError

RESOLUTION = 20  # at level 0 a bucket is 2 ** 2 ** -20 wide, 7e-7
MAX_LEVEL = 28  # at which 14 buckets hold every float64 up to 1e100
MIN_BUCKETS = 16
MAX_BUCKETS = 256  # 30 columns fit into 64 KiB of JSON
VALUES_PER_BUCKET = 4  # on average, where there are enough values for `MIN_BUCKETS`

_I64 = npt.NDArray[np.int64]
_MOST = 1 << 40
Pairs = Annotated[tuple[Annotated[int, Between(-_MOST, _MOST)], ...], Length(0, 2 * MAX_BUCKETS)]


@dataclass(frozen=True, slots=True)
class QuantileSketch(Record):
    """Bucket counts.

    Attributes:
        level: width of the buckets, see the module.
        zeros: number of values that are 0.
        negative, positive: number of values by the bucket of their magnitude, as pairs (step, count):
            the first step is the first bucket's number, each other the distance from the one before.
    """

    level: Annotated[int, Between(0, MAX_LEVEL)] = 0
    zeros: Annotated[int, Between(0, _MOST)] = 0
    negative: Pairs = ()
    positive: Pairs = ()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        for pairs in (self.negative, self.positive):
            if len(pairs) % 2 or any(step < 1 for step in pairs[2::2]) or any(n < 1 for n in pairs[1::2]):
                raise RecordError("QuantileSketch: buckets are not pairs of ascending steps and counts")

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> QuantileSketch:
        """Sketch finite values of magnitude up to 1e100."""
        buckets = min(max(len(values) // VALUES_PER_BUCKET, MIN_BUCKETS), MAX_BUCKETS)
        zeros = int((values == 0).sum())
        return _fitted(0, zeros, _histogram(-values[values < 0]), _histogram(values[values > 0]), buckets)

    def __add__(self, other: QuantileSketch) -> QuantileSketch:
        level = max(self.level, other.level)
        negative, positive = (
            _merged(
                _coarser(_unpacked(mine), level - self.level), _coarser(_unpacked(its), level - other.level)
            )
            for mine, its in ((self.negative, other.negative), (self.positive, other.positive))
        )
        return _fitted(level, self.zeros + other.zeros, negative, positive, MAX_BUCKETS)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.zeros + sum(self.negative[1::2]) + sum(self.positive[1::2])

    @property
    def relative_error(self) -> float:
        """Bound of ``|quantile - true| / |true|``."""
        return math.tanh(math.log(2) * self._width / 2)

    def quantile(self, fraction: float) -> float:
        """The value of rank ``floor(fraction * (count - 1))``, to within `relative_error`.

        Raises:
            ValueError: there are no values, or the fraction is not from 0 to 1.
        """
        if not self.count or not 0 <= fraction <= 1:
            raise ValueError(f"quantile {fraction} of {self.count} values")
        values, counts = self._ascending()
        rank = math.floor(fraction * (self.count - 1))
        return float(values[np.searchsorted(np.cumsum(counts), rank, side="right")])

    @property
    def _width(self) -> float:
        return 2.0 ** (self.level - RESOLUTION)  # of a bucket, in octaves

    def _ascending(self) -> tuple[npt.NDArray[np.float64], _I64]:
        below, below_counts = _unpacked(self.negative)
        above, above_counts = _unpacked(self.positive)
        shrink = 1.0 - self.relative_error  # from a bucket's upper border to its representative
        values = np.concatenate(
            [
                -np.exp2(below[::-1] * self._width) * shrink,
                np.zeros(1),
                np.exp2(above * self._width) * shrink,
            ]
        )
        return values, np.concatenate([below_counts[::-1], [self.zeros], above_counts])


_Histogram = tuple[_I64, _I64]  # ascending bucket numbers, and their counts


def _histogram(magnitudes: npt.NDArray[np.float64]) -> _Histogram:
    numbers = np.ceil(np.log2(magnitudes) * 2.0**RESOLUTION).astype(np.int64)
    return np.unique(numbers, return_counts=True)


def _coarser(histogram: _Histogram, levels: int) -> _Histogram:
    numbers, counts = histogram
    merged, position = np.unique((numbers + (1 << levels) - 1) >> levels, return_inverse=True)
    return merged, _added(position, counts, len(merged))


def _merged(mine: _Histogram, its: _Histogram) -> _Histogram:
    numbers, position = np.unique(np.concatenate([mine[0], its[0]]), return_inverse=True)
    return numbers, _added(position, np.concatenate([mine[1], its[1]]), len(numbers))


def _added(position: npt.NDArray[np.integer], counts: _I64, length: int) -> _I64:
    total = np.zeros(length, np.int64)
    np.add.at(total, position.reshape(-1), counts)
    return total


def _fitted(
    level: int, zeros: int, negative: _Histogram, positive: _Histogram, buckets: int
) -> QuantileSketch:
    """Coarsen until no more than so many buckets are in use."""
    while len(negative[0]) + len(positive[0]) > buckets and level < MAX_LEVEL:
        level, negative, positive = level + 1, _coarser(negative, 1), _coarser(positive, 1)
    return QuantileSketch(level, zeros, _packed(negative), _packed(positive))


def _packed(histogram: _Histogram) -> tuple[int, ...]:
    numbers, counts = histogram
    if not len(numbers):
        return ()
    steps = np.diff(numbers, prepend=0)
    steps[0] = numbers[0]
    return tuple(np.column_stack([steps, counts]).ravel().tolist())


def _unpacked(pairs: tuple[int, ...]) -> _Histogram:
    array = np.asarray(pairs, np.int64).reshape(-1, 2)
    return np.cumsum(array[:, 0]), array[:, 1]
