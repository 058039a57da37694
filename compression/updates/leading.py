"""The leading singular vectors of a matrix, and how much energy (sum of squares) each pair of them holds.

All of it from products of few numbers and small symmetric matrices: many times faster than a decomposition
of the matrix itself, and exact enough for vectors that become a few small integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.updates.stages import Floats

ITERATIONS = 2
SPARE = 4  # directions more than are wanted: the last of them converge slowly
NARROW = 64  # extents up to it take less time to be solved at once than by iteration
ONE_THREAD = 1 << 18  # multiplications: OpenBLAS takes more threads for more than these
NOISE = 1e-6  # share of the largest energy below which float32 has nothing to say

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leading:
    """Orthonormal directions of a matrix's narrow side, in columns, the energy along each falling."""

    energies: list[float]
    narrow: Floats

    def vectors(self, matrix: Floats, count: int) -> tuple[Floats, Floats]:
        """The first so many left and right ones of the matrix, in columns; their lengths say nothing."""
        narrow = self.narrow[:, :count]
        wide = product(_tall(matrix), narrow)
        return (wide, narrow) if len(matrix) >= matrix.shape[1] else (narrow, wide)


def leading(matrix: Floats, count: int) -> Leading:
    """At most `count` directions; of the narrow side's own matrix of products where that is small."""
    tall = _tall(matrix)
    extent = tall.shape[1]
    if count == 0:
        return Leading([], tall[:0].T)
    if extent <= NARROW:
        energies, turn = _axes(squares(tall))
        return Leading(_sound(energies[:count]).tolist(), turn[:, :count].astype(np.float32))
    right = _subspace(tall, min(count + SPARE, extent))
    energies, turn = _axes(squares(product(tall, right)))
    return Leading(_sound(energies[:count]).tolist(), product(right, turn[:, :count].astype(np.float32)))


def _tall(matrix: Floats) -> Floats:
    return matrix if len(matrix) >= matrix.shape[1] else matrix.T


def _subspace(tall: Floats, width: int) -> Floats:
    """By iteration (Halko et al., 2011) from directions that are always the same."""
    right = np.random.default_rng(0).standard_normal((tall.shape[1], width), np.float32)
    for _ in range(ITERATIONS):
        left = _orthonormal(product(tall, _orthonormal(right)))
        right = sum_of_products(tall, left).astype(np.float32)
    return _orthonormal(right)


def _orthonormal(vectors: Floats) -> Floats:
    """Columns of the same span; zeros for those that are noise."""
    energies, turn = _axes(squares(vectors))
    sound = _sound(energies)
    scales = np.where(sound > 0, 1 / np.sqrt(np.where(sound > 0, sound, 1)), 0)
    return product(vectors, (turn * scales).astype(np.float32))


def _sound(energies: Doubles) -> Doubles:
    return np.where(energies > NOISE * energies[0], energies, 0)


def _axes(products: Doubles) -> tuple[Doubles, Doubles]:
    """Eigenvalues of a symmetric matrix, the largest first, and their vectors in columns."""
    energies, turn = np.linalg.eigh(products)
    return energies[::-1], turn[:, ::-1]


# ---- products of so few rows at a time that BLAS starts no threads: they wait for each other ----


def squares(vectors: Floats) -> Doubles:
    """The products of all pairs of columns."""
    return sum_of_products(vectors, vectors)


def sum_of_products(first: Floats, second: Floats) -> Doubles:
    """``first.T @ second``."""
    total = np.zeros((first.shape[1], second.shape[1]))
    for rows in _few(first, total.size):
        total += first[rows].T.copy() @ second[rows]
    return total


def product(first: Floats, second: Floats) -> Floats:
    """``first @ second``."""
    result = np.empty((len(first), second.shape[1]), np.float32)
    for rows in _few(first, second.size):
        np.matmul(first[rows], second, out=result[rows])
    return result


def _few(matrix: Floats, multiplications: int) -> Iterator[slice]:
    """Rows of a matrix, each of them worth so many multiplications."""
    rows = max(ONE_THREAD // max(multiplications, 1), 1)
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))
