"""What the rows of a matrix have in common: a step times two vectors of small integers, as often as it pays.

What a client learns in a round is close to a matrix of low rank: every example adds the outer product of a
layer's inputs and its gradients. Two vectors carry that in far fewer numbers than positions and signs do
(PowerSGD, Vogels et al., 2019, https://arxiv.org/abs/1905.13727).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.updates import integers
from compression.updates.errors import CodecError
from compression.updates.leading import Leading, leading, product, squares
from compression.updates.sections import Reader
from compression.updates.stages import NEGLIGIBLE, Floats

COMPONENT_BITS = 48.0  # its step, and its share of what else there is
CHUNK = 1 << 15  # values
MOST = 16  # of a tensor: a payload of a few bytes cannot ask for more work than that
LARGEST_LEVEL = 127

Integers = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where a tensor lies among the pruned values, its last extent the columns."""

    start: int
    rows: int
    columns: int

    def of(self, values: Floats) -> Floats:
        """The part of `values`, as a view."""
        return values[self.start : self.start + self.rows * self.columns].reshape(self.rows, self.columns)

    @property
    def most(self) -> int:
        """Components it may have: fewer numbers than values, and no more work than `MOST` is."""
        return min(MOST, self.rows * self.columns // max(self.rows + self.columns, 1))


@dataclass(frozen=True, slots=True)
class Component:
    """``step * left * right`` of one matrix."""

    step: np.float32
    left: Integers
    right: Integers

    def values(self, rows: slice) -> Floats:
        """Rows of the matrix; the same bits on every machine: one float32 product after the other."""
        scaled = self.left[rows].astype(np.float32) * self.step
        return scaled[:, np.newaxis] * self.right.astype(np.float32)


Components = list[list[Component]]  # of each pruned tensor, in order


def matrices_of(shapes: Sequence[tuple[int, ...]]) -> list[Matrix]:
    """Those of the pruned tensors; one without two extents is a column, and gets no component."""
    matrices, start = [], 0
    for shape in shapes:
        columns = shape[-1] if len(shape) > 1 else 1
        rows = math.prod(shape) // columns if columns else 0
        matrices.append(Matrix(start, rows, columns))
        start += rows * columns
    return matrices


def take_components(
    values: Floats, unit: np.float32, matrices: Sequence[Matrix], level: int, least: float, budget: float
) -> Components:
    """Choose the components that take away most energy (sum of squares) a bit, and subtract them.

    Args:
        values: of all pruned tensors, none above 1; what remains is left in them.
        unit: what 1 stands for.
        matrices: where those lie.
        level: largest magnitude that a number of a component is rounded to.
        least: energy that a bit takes away elsewhere.
        budget: bits.

    Returns:
        For each matrix its components in order.
    """
    parts = [matrix.of(values) for matrix in matrices]
    bits = [number_bits(level) * (matrix.rows + matrix.columns) + COMPONENT_BITS for matrix in matrices]
    found = [leading(part, matrix.most) for part, matrix in zip(parts, matrices, strict=True)]
    offers = [(gain / bits[n], n) for n, each in enumerate(found) for gain in each.energies]
    ranks = [0] * len(matrices)
    for gain, n in sorted(offers, reverse=True):
        if gain > least and bits[n] <= budget:
            ranks[n] += 1
            budget -= bits[n]
    return [_take(*each, level, unit) for each in zip(parts, found, ranks, strict=True)]


def number_bits(level: int) -> float:
    """What a number of a component takes, about: they are spread like a bell, seldom near the ends."""
    return math.log2(2 * level + 1) - 0.4


def _take(matrix: Floats, found: Leading, rank: int, level: int, unit: np.float32) -> list[Component]:
    """The first so many as components, their steps by least squares, subtracted from the matrix."""
    if rank == 0:
        return []
    left, right = (_rounded(vectors, level) for vectors in found.vectors(matrix, rank))
    products = np.einsum("ij,ij->j", left, product(matrix, right))
    shares = np.linalg.lstsq(squares(left) * squares(right), products, rcond=None)[0]
    steps = np.clip(shares, 0, 1).astype(np.float32)
    steps[steps * unit < NEGLIGIBLE] = 0
    matrix -= product(left * steps, right.T)
    return [Component(*each) for each in zip(steps * unit, _whole(left), _whole(right), strict=True)]


def _whole(vectors: Floats) -> Integers:
    return vectors.T.astype(np.int8)


def _rounded(vectors: Floats, level: int) -> Floats:
    peaks = np.maximum(np.abs(vectors).max(axis=0), NEGLIGIBLE)
    rounded: Floats = np.rint(vectors * (np.float32(level) / peaks))
    return rounded


def add_components(values: Floats, matrices: Sequence[Matrix], components: Components) -> None:
    """To what is sent otherwise, in the order of the payload: sums of float32 depend on it."""
    for matrix, own in zip(matrices, components, strict=True):
        part = matrix.of(values)
        rows = max(CHUNK // max(matrix.columns, 1), 1)  # so few at a time that they stay in the cache
        for start in range(0, matrix.rows if own else 0, rows):
            for component in own:
                part[start : start + rows] += component.values(slice(start, start + rows))


# ---- as bytes ----


def encode_components(components: Components) -> tuple[bytes, bytes, bytes]:
    """How many each tensor has, their steps, and all numbers: 0, 1, -1, 2, -2 as 0, 1, 2, 3, 4."""
    every = [component for own in components for component in own]
    counts = np.array([len(own) for own in components], np.uint32)
    steps = np.array([component.step for component in every], "<f4").tobytes()
    vectors = [vector.astype(np.int32) for each in every for vector in (each.left, each.right)]
    numbers = np.concatenate(vectors) if vectors else np.zeros(0, np.int32)
    folded = np.where(numbers > 0, 2 * numbers - 1, -2 * numbers).astype(np.uint32)
    return integers.encode(counts), steps, integers.encode(folded)


def decode_components(reader: Reader, matrices: Sequence[Matrix], largest: np.float32) -> Components:
    """Inverse of `encode_components` for the next sections; raise `CodecError` for anything else."""
    ranks = integers.decode(reader.section(), len(matrices), MOST + 1).tolist()
    if any(rank > matrix.most for rank, matrix in zip(ranks, matrices, strict=True)):
        raise CodecError("more components than a tensor may have")
    coded = reader.section()
    if len(coded) != 4 * sum(ranks):
        raise CodecError(f"{len(coded)} bytes of steps for {sum(ranks)} components")
    steps = np.frombuffer(coded, "<f4").astype(np.float32)
    if not ((steps >= 0) & (steps <= largest)).all():  # NaN compares false
        raise CodecError("a component's step is negative, not finite or too large")
    sizes = [(m.rows, m.columns) for m, rank in zip(matrices, ranks, strict=True) for _ in range(rank)]
    folded = integers.decode(reader.section(), sum(map(sum, sizes)), 2 * LARGEST_LEVEL + 1)
    half = ((folded + 1) >> 1).astype(np.int8)
    every = _cut(np.where(folded & 1, half, -half), steps, sizes)
    return [[next(every) for _ in range(rank)] for rank in ranks]


def _cut(flat: Integers, steps: Floats, sizes: Sequence[tuple[int, int]]) -> Iterator[Component]:
    start = 0
    for step, (rows, columns) in zip(steps, sizes, strict=True):
        middle, end = start + rows, start + rows + columns
        yield Component(step, flat[start:middle], flat[middle:end])
        start = end
