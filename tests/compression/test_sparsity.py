"""Zeros that stay: the schedule, the step, and what error feedback may not bring back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.sparsity import (
    prunable,
    prune_weights,
    pruned_step,
    sparsity_after,
    without_pruned,
    zero_share,
)
from compression.spec import TensorSpec

SPECS = [
    TensorSpec("d/kernel", (2, 2)),
    TensorSpec("d/bias", (2,)),
    TensorSpec("depth/depthwise_kernel", (2, 1)),
    TensorSpec("n/moving_mean", (2,), "statistic"),
]


def weights(kernel: list[list[float]]) -> dict[str, np.ndarray]:
    return {
        "d/kernel": np.array(kernel, np.float32),
        "d/bias": np.array([0.0, 0.2], np.float32),
        "depth/depthwise_kernel": np.array([[0.0], [0.1]], np.float32),
        "n/moving_mean": np.zeros(2, np.float32),
    }


def test_only_kernels_are_pruned_and_depthwise_ones_are_not() -> None:
    assert prunable(SPECS) == ("d/kernel",)
    pruned = prune_weights(weights([[3.0, -1.0], [0.0, 2.0]]), SPECS, 0.5)
    np.testing.assert_array_equal(pruned["d/kernel"], [[3, 0], [0, 2]])
    assert not np.signbit(pruned["d/kernel"]).any()  # -0.0 is other bytes: another digest
    for name in ("d/bias", "depth/depthwise_kernel", "n/moving_mean"):
        np.testing.assert_array_equal(pruned[name], weights([[0, 0], [0, 0]])[name])
    assert zero_share(pruned, SPECS) == 0.5
    assert zero_share(pruned, SPECS[1:]) == 0.0


def test_a_step_does_not_bring_back_what_was_pruned() -> None:
    before = weights([[3.0, 0.0], [0.0, 2.0]])
    after = weights([[3.5, 9.0], [0.1, 1.0]])  # a lossy codec moved both zeros
    stepped = pruned_step(before, after, SPECS, 0.5)
    np.testing.assert_array_equal(stepped["d/kernel"], [[3.5, 0], [0, 1]])
    np.testing.assert_array_equal(pruned_step(before, after, SPECS, 0.75)["d/kernel"], [[3.5, 0], [0, 0]])
    np.testing.assert_array_equal(stepped["d/bias"], after["d/bias"])


def test_nothing_is_owed_to_a_pruned_weight() -> None:
    owed = weights([[1.0, 1.0], [1.0, 1.0]])
    left = without_pruned({"d/kernel": owed["d/kernel"]}, weights([[3.0, 0.0], [0.0, 2.0]]), SPECS)
    np.testing.assert_array_equal(left["d/kernel"], [[1, 0], [0, 1]])
    assert list(left) == ["d/kernel"]


SUBNORMAL = 1e-39  # 32-bit Arm's vector unit takes it for zero, and gives zero for it


def test_a_mask_is_the_same_where_subnormals_are_taken_for_zero() -> None:
    here, there = weights([[3.0, SUBNORMAL], [-SUBNORMAL, 2.0]]), weights([[3.0, 0.0], [0.0, 2.0]])
    after_here, after_there = weights([[3.0, 9.0], [SUBNORMAL, 2.0]]), weights([[3.0, 9.0], [0.0, 2.0]])
    for share in (0.0, 0.5):
        stepped = [pruned_step(here, after_here, SPECS, share), pruned_step(there, after_there, SPECS, share)]
        for weights_after in stepped:
            np.testing.assert_array_equal(weights_after["d/kernel"], [[3, 0], [0, 2]])
    owed = {"d/kernel": np.ones((2, 2), np.float32)}
    np.testing.assert_array_equal(without_pruned(owed, here, SPECS)["d/kernel"], [[1, 0], [0, 1]])
    assert zero_share(here, SPECS) == 0.5


def test_among_subnormals_the_first_goes_whichever_is_smaller() -> None:
    specs = [TensorSpec("d/kernel", (40,))]
    kernel = np.arange(1, 41, dtype=np.float32)
    kernel[:3] = 3e-39, 2e-39, 1e-39
    pruned = prune_weights({"d/kernel": kernel}, specs, 0.025)["d/kernel"]
    assert not pruned[:3].any() and pruned[3:].all()  # all three: what is no number there is none here


def test_small_kernels_keep_more_of_their_large_weights_and_each_keeps_some() -> None:
    specs = [
        TensorSpec("first/kernel", (4,)),
        TensorSpec("wide/kernel", (96,)),
        TensorSpec("dim/kernel", (20,)),
    ]
    rng = np.random.default_rng(0)
    drawn = {
        "first/kernel": np.array([1.0, 2.0, 3.0, 4.0], np.float32),
        "wide/kernel": rng.uniform(0.1, 0.9, 96).astype(np.float32),
        "dim/kernel": np.full(20, 1e-3, np.float32),  # smaller than all others: it would be gone
    }
    pruned = prune_weights(drawn, specs, 0.8)
    assert zero_share(pruned, specs) == pytest.approx(0.8)
    np.testing.assert_array_equal(pruned["first/kernel"], drawn["first/kernel"])
    assert np.count_nonzero(pruned["dim/kernel"]) == 1  # a twentieth
    kept = pruned["wide/kernel"] > 0
    assert drawn["wide/kernel"][kept].min() > drawn["wide/kernel"][~kept].max()


def test_the_schedule_by_hand() -> None:
    polynomial = [sparsity_after(n, 10, 0.8, "polynomial", 0.2, 0.6) for n in range(1, 11)]
    rising = [0.8 * (1 - (1 - n / 4) ** 3) for n in (1, 2, 3, 4)]
    assert polynomial == pytest.approx([0.0, 0.0, *rising] + [0.8] * 4)
    assert [sparsity_after(n, 4, 0.8, "constant", 0.5, 0.9) for n in (1, 2, 3, 4)] == [0.0, 0.0, 0.8, 0.8]
    assert sparsity_after(1, 1, 0.8, "polynomial", 0.3, 0.8) == 0.8


@given(st.integers(1, 40), st.floats(0.05, 0.95), st.floats(0.0, 0.5), st.floats(0.51, 1.0))
def test_the_schedule_only_grows_and_ends_where_it_should(
    rounds: int, final: float, start: float, end: float
) -> None:
    shares = [sparsity_after(n, rounds, final, "polynomial", start, end) for n in range(1, rounds + 1)]
    assert all(after >= before for before, after in itertools.pairwise(shares))
    assert shares[-1] == pytest.approx(final)
