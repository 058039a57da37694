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
from compression.updates.sections import Reader
from compression.updates.stages import NEGLIGIBLE, Floats

COMPONENT_BITS = 48.0  # its step, and its share of what else there is
ITERATIONS = 2
SPARE = 4  # directions more than are wanted: the last of them converge slowly
CHUNK = 1 << 15  # values
ONE_THREAD = 1 << 18  # multiplications: OpenBLAS takes more threads for more than these
MOST = 16  # of a tensor: a payload of a few bytes cannot ask for more work than that
LARGEST_LEVEL = 127

Integers = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]


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
    values: Floats, matrices: Sequence[Matrix], level: int, worth: float, budget: float
) -> Components:
    """Choose the components that take away most energy a bit, and subtract them.

    Args:
        values: of all pruned tensors; what remains is left in them.
        matrices: where those lie.
        level: largest magnitude that a number of a component is rounded to.
        worth: what a bit takes away elsewhere, as a share of all energy (sum of squares).
        budget: bits.

    Returns:
        For each matrix its components in order.
    """
    peak = np.abs(values).max(initial=np.float32(0))
    if peak < NEGLIGIBLE:
        return [[] for _ in matrices]
    parts = [matrix.of(values) for matrix in matrices]
    found = [_leading(part / peak, matrix.most) for part, matrix in zip(parts, matrices, strict=True)]
    bits = [number_bits(level) * (matrix.rows + matrix.columns) + COMPONENT_BITS for matrix in matrices]
    least = worth * sum(float(np.square(part / peak).sum()) for part in parts)
    offers = [(gain / bits[n], n) for n, leading in enumerate(found) for gain in leading.energies]
    ranks = [0] * len(matrices)
    for gain, n in sorted(offers, reverse=True):
        if gain > least and bits[n] <= budget:
            ranks[n] += 1
            budget -= bits[n]
    return [
        leading.take(rank, level, part, peak) for leading, rank, part in zip(found, ranks, parts, strict=True)
    ]


def number_bits(level: int) -> float:
    """What a number of a component takes, about: they are spread like a bell, seldom near the ends."""
    return math.log2(2 * level + 1) - 0.4


@dataclass(frozen=True, slots=True)
class _Leading:
    """The leading singular vectors of a matrix, in columns, and the energy of each pair."""

    energies: list[float]
    left: Floats
    right: Floats

    def take(self, rank: int, level: int, matrix: Floats, peak: np.float32) -> list[Component]:
        """The first so many as components, their steps by least squares, subtracted from the matrix."""
        if rank == 0:
            return []
        left, right = (_rounded(vectors[:, :rank], level) for vectors in (self.left, self.right))
        products = np.einsum("ij,ij->j", left, _product(matrix / peak, right))
        shares = np.linalg.lstsq(_squares(left) * _squares(right), products, rcond=None)[0]
        steps = np.clip(shares, 0, 1).astype(np.float32) * peak
        steps[steps < NEGLIGIBLE] = 0
        matrix -= _product(left * steps, right.T)
        return [Component(*each) for each in zip(steps, _whole(left), _whole(right), strict=True)]


def _leading(matrix: Floats, count: int) -> _Leading:
    """By subspace iteration (Halko et al., 2011) from directions that are always the same."""
    if count == 0:
        return _Leading([], matrix[:, :0], matrix[:0].T)
    width = min(count + SPARE, *matrix.shape)
    right = np.random.default_rng(0).standard_normal((matrix.shape[1], width), np.float32)
    for _ in range(ITERATIONS):
        right = _product(matrix.T, _orthonormal(_product(matrix, _orthonormal(right))))
    right = _orthonormal(right)
    left = _product(matrix, right)
    energies, turn = _axes(left)
    first = turn[:, :count].astype(np.float32)
    return _Leading(energies[:count].tolist(), _product(left, first), _product(right, first))


def _orthonormal(vectors: Floats) -> Floats:
    """Columns of the same span; zeros for those that are float32's noise."""
    energies, turn = _axes(vectors)
    sound = energies > 1e-6 * energies[0]
    scales = np.where(sound, 1 / np.sqrt(np.where(sound, energies, 1)), 0)
    return _product(vectors, (turn * scales).astype(np.float32))


def _axes(vectors: Floats) -> tuple[Doubles, Doubles]:
    """What turns columns into orthogonal ones, and the energies of these, the largest first.

    Eigenvectors of the small matrix of products: many times faster than a decomposition of the large one.
    """
    energies, turn = np.linalg.eigh(_squares(vectors))
    return energies[::-1], turn[:, ::-1]


def _squares(vectors: Floats) -> Doubles:
    """The products of all pairs of columns."""
    width = vectors.shape[1]
    total = np.zeros((width, width))
    rows = max(ONE_THREAD // max(width * width, 1), 1)
    for start in range(0, len(vectors), rows):
        part = vectors[start : start + rows]
        total += part.T.copy() @ part
    return total


def _product(first: Floats, second: Floats) -> Floats:
    """``first @ second``, so few rows at a time that BLAS starts no threads: they wait for each other."""
    result = np.empty((len(first), second.shape[1]), np.float32)
    rows = max(ONE_THREAD // max(second.size, 1), 1)
    for start in range(0, len(first), rows):
        np.matmul(first[start : start + rows], second, out=result[start : start + rows])
    return result


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
