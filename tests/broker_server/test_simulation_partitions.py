"""Partitions: every example once, every client some."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_server.simulation import SimulationError, parse_partition, partition

LABELS = np.repeat([0, 1, 2], [300, 500, 200])


def parts_of(how: str, devices: int, labels: np.ndarray = LABELS, seed: int = 0) -> list[np.ndarray]:
    return partition(labels, how, devices, np.random.default_rng(seed))


@given(
    st.lists(st.integers(0, 2), min_size=2, max_size=120),
    st.integers(1, 12),
    st.sampled_from(["iid", "dirichlet:0.001", "dirichlet:0.1", "dirichlet:1", "dirichlet:1000", "sizes"]),
    st.integers(0, 2**32),
)
def test_each_example_goes_to_one_client_and_each_client_gets_two(
    labels: list[int], devices: int, how: str, seed: int
) -> None:
    if how == "sizes":
        how = "sizes:" + ",".join(["1000", *["1"] * (devices - 1)])
    if len(labels) < 2 * devices:
        with pytest.raises(SimulationError, match="too few for"):
            parts_of(how, devices, np.array(labels), seed)
        return
    parts = parts_of(how, devices, np.array(labels), seed)
    assert len(parts) == devices
    assert min(map(len, parts)) >= 2
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = parts_of(how, devices, np.array(labels), seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_iid_is_even_and_unsorted() -> None:
    parts = parts_of("iid", 4)
    assert [len(part) for part in parts] == [250] * 4
    shares = np.array([np.bincount(LABELS[part], minlength=3) / 250 for part in parts])
    assert np.abs(shares - [0.3, 0.5, 0.2]).max() < 0.12  # 4 standard deviations


def test_sizes_are_kept_to_the_example() -> None:
    assert [len(part) for part in parts_of("sizes:35,25,22,18", 4)] == [350, 250, 220, 180]
    assert [len(part) for part in parts_of("sizes:3.5,2.5,2.2,1.8", 4)] == [350, 250, 220, 180]


def mix(parts: list[np.ndarray]) -> float:
    """How far the clients' class mixes lie from the whole's, on average."""
    whole = np.bincount(LABELS, minlength=3) / len(LABELS)
    return float(np.mean([np.abs(np.bincount(LABELS[p], minlength=3) / len(p) - whole).sum() for p in parts]))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    skew = {
        alpha: np.mean([mix(parts_of(f"dirichlet:{alpha}", 5, seed=s)) for s in range(30)])
        for alpha in (0.1, 1, 100)
    }
    assert skew[0.1] > 2 * skew[1] > 4 * skew[100]
    single = [len(np.unique(LABELS[p])) == 1 for s in range(30) for p in parts_of("dirichlet:0.1", 5, seed=s)]
    assert 0.1 < np.mean(single) < 0.9


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution() -> None:
    labels = np.zeros(10_000, np.int64)
    alpha, devices = 0.5, 4
    shares = np.array(
        [[len(p) / 10_000 for p in parts_of("dirichlet:0.5", devices, labels, s)] for s in range(400)]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 0.25, atol=0.05)
    expected = (1 / devices) * (1 - 1 / devices) / (devices * alpha + 1)
    np.testing.assert_allclose(shares.var(axis=0), expected, rtol=0.25)


@pytest.mark.parametrize(
    ("text", "devices", "told"),
    [
        ("random", 4, "expected iid, dirichlet:ALPHA"),
        ("", 4, "expected iid"),
        ("iid:3", 4, "expected iid"),
        ("dirichlet", 4, "expected iid"),
        ("dirichlet:", 4, "expected iid"),
        ("dirichlet:much", 4, "'much' is not a number"),
        ("dirichlet:0", 4, "alpha must be from 0.001 to"),
        ("dirichlet:nan", 4, "alpha must be from"),
        ("sizes:1,2", 4, "2 parts for 4 devices"),
        ("sizes:1,2,0", 3, "each part must be more than 0"),
        ("sizes:1,inf", 2, "each part must be more than 0"),
        ("sizes:1,,2", 3, "'' is not a number"),
        ("iid", 0, "0 devices: expected 1 to 1000"),
        ("iid", 5000, "5000 devices"),
    ],
)
def test_partitions_that_make_no_sense(text: str, devices: int, told: str) -> None:
    with pytest.raises(SimulationError) as caught:
        parse_partition(text, devices)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.5", "sizes:35,25,22,18"])
def test_partitions_give_their_text_back(text: str) -> None:
    assert str(parse_partition(text, 4)) == text
