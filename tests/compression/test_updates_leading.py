"""A matrix's leading vectors, where they are solved for and where they are iterated for."""

from __future__ import annotations

import numpy as np
import pytest

from compression.updates import PROFILES
from compression.updates.budget import spend
from compression.updates.components import Matrix
from compression.updates.leading import NARROW, leading

SHAPES = [(9, 8), (8, 9), (300, NARROW), (NARROW + 1, 90), (90, NARROW + 1), (1, 5)]


def decaying(shape: tuple[int, int]) -> np.ndarray:
    """A matrix whose singular values are 1, 1/4, 1/16 ..., in directions drawn by chance."""
    rng, extent = np.random.default_rng(7), min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, extent)))[0] for size in shape)
    matrix: np.ndarray = (left * 0.25 ** np.arange(extent) @ right.T).astype(np.float32)
    return matrix


@pytest.mark.parametrize("shape", SHAPES)
def test_energies_are_the_squares_of_the_singular_values(shape: tuple[int, int]) -> None:
    count = min(4, *shape)
    assert leading(decaying(shape), count).energies == pytest.approx(
        [16.0**-place for place in range(count)], rel=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_vectors_are_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    matrix, count = decaying(shape), min(3, *shape)
    left, right = leading(matrix, count).vectors(matrix, count)
    assert (left.shape, right.shape) == ((shape[0], count), (shape[1], count))
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    for found, true in ((left, u), (right, vt.T)):
        likeness = np.abs((found / np.linalg.norm(found, axis=0)).T @ true[:, :count])
        assert likeness == pytest.approx(np.eye(count), abs=2e-3)


def test_noise_of_a_matrix_of_one_component_has_no_energy() -> None:
    matrix = np.outer(np.arange(1.0, 101.0), np.arange(1.0, 31.0)).astype(np.float32)
    first, *others = leading(matrix, 5).energies
    assert first == pytest.approx(338350.0 * 9455.0)
    assert others == [0.0] * 4


@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 2.0**-101])
def test_negligible_values_get_no_component(scale: float) -> None:
    values = np.outer(np.arange(64.0), np.arange(64.0)).ravel().astype(np.float32) * np.float32(scale / 4000)
    spent = spend(values, [Matrix(0, 64, 64)], 4096, 0.0, PROFILES["small"])
    assert spent.components == [[]]


@pytest.mark.parametrize("power", [-90, 0, 80])
def test_what_is_chosen_does_not_depend_on_the_scale(power: int) -> None:
    rng = np.random.default_rng(3)
    plain = (np.outer(rng.standard_normal(256), rng.standard_normal(64)).ravel()).astype(np.float32)
    scaled = plain * np.float32(2.0**power)
    matrices = [Matrix(0, 256, 64)]
    first, second = (spend(each, matrices, 16384, 0.0, PROFILES["safe"]) for each in (plain, scaled))
    assert len(first.components[0]) >= 1
    assert first.coded[2] == second.coded[2]
    assert np.array_equal(plain * np.float32(2.0**power), scaled)
