"""Statistics known by hand, and a clock that is told what time it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_client.measure.timing import Sample, TimingRule, median_interval, summarise, time_function


class Clock:
    """Moves only when the function that is timed takes its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taking(clock: Clock, seconds: Iterator[float]) -> object:
    def run() -> None:
        clock.now += next(seconds)

    return run


def constant(value: float) -> Iterator[float]:
    while True:
        yield value


def first_then(first: float, value: float) -> Iterator[float]:
    yield first
    yield from constant(value)


def test_a_steady_function_is_timed_for_the_least_time_and_no_longer() -> None:
    clock = Clock()
    rule = TimingRule(warm_up_runs=3, warm_up_s=0.0, min_runs=50, min_s=0.1, max_s=100)
    timings = time_function(taking(clock, first_then(0.5, 0.001)), rule, clock=clock)  # type: ignore[arg-type]
    assert timings.first_ms == pytest.approx(500)
    assert timings.warm_up_runs == 3
    assert timings.p50_ms == pytest.approx(1.0) and timings.p99_ms == pytest.approx(1.0)
    assert timings.std_ms == pytest.approx(0.0, abs=1e-9)
    assert 100 <= timings.runs <= 116  # 0.1 s, and up to the next look
    assert timings.reached


def test_the_warm_up_lasts_as_long_as_it_is_asked_to() -> None:
    clock = Clock()
    rule = TimingRule(warm_up_runs=1, warm_up_s=0.05, min_s=0.0, max_s=100)
    timings = time_function(taking(clock, constant(0.001)), rule, clock=clock)  # type: ignore[arg-type]
    assert 50 <= timings.warm_up_runs <= 52


def test_a_noisy_function_is_timed_until_its_median_is_known() -> None:
    rng = np.random.default_rng(0)

    def runs(precision: float) -> int:
        clock = Clock()
        noise = iter(lambda: 0.001 * float(rng.lognormal(0, 0.3)), None)
        rule = TimingRule(warm_up_s=0.0, min_s=0.0, precision=precision, max_s=1e9)
        timings = time_function(taking(clock, noise), rule, clock=clock)  # type: ignore[arg-type]
        assert timings.reached and timings.precision <= precision
        return timings.runs

    assert runs(0.01) > 4 * runs(0.05)


def test_time_runs_out_and_it_says_that_the_median_is_not_known() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    noise = iter(lambda: float(rng.lognormal(0, 1)), None)
    rule = TimingRule(warm_up_runs=1, warm_up_s=0, max_s=60, precision=0.001)
    timings = time_function(taking(clock, noise), rule, clock=clock)  # type: ignore[arg-type]
    assert not timings.reached
    assert clock.now < 140


def test_a_function_slower_than_the_limit_runs_once_after_its_warm_up() -> None:
    clock = Clock()
    rule = TimingRule(max_s=1.0)
    timings = time_function(taking(clock, constant(30.0)), rule, clock=clock)  # type: ignore[arg-type]
    assert (timings.runs, timings.p50_ms) == (1, 30_000.0)


def test_progress_only_grows_to_one() -> None:
    clock, seen = Clock(), []
    rule = TimingRule(warm_up_s=0.0, min_s=0.5, max_s=10)
    time_function(taking(clock, constant(0.001)), rule, clock=clock, progress=seen.append)  # type: ignore[arg-type]
    assert seen == sorted(seen)
    assert 0.9 < seen[-1] <= 1.0


def test_the_interval_of_the_median_by_hand() -> None:
    """n = 100: ranks 50 -+ 9.8, so the 41st and the 61st of 1..100 counted from 1."""
    assert median_interval([float(n) for n in range(1, 101)]) == (41.0, 61.0)
    assert median_interval([3.0]) == (3.0, 3.0)


def test_the_interval_holds_the_true_median_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        low, high = median_interval(rng.exponential(1.0, 101).tolist())
        hits += low <= np.log(2) <= high
    assert 930 <= hits <= 990


def test_a_summary_by_hand() -> None:
    repeats = [Sample((1.0, 2.0, 3.0), 9.0, 1), Sample((4.0, 100.0), 8.0, 1)]
    timings = summarise(repeats, precision=0.01)
    assert (timings.p50_ms, timings.min_ms, timings.mean_ms, timings.runs) == (3.0, 1.0, 22.0, 5)
    assert timings.interval_ms == (1.0, 100.0)
    assert (timings.first_ms, timings.warm_up_runs) == (9.0, 2)
    assert timings.samples_ms == ((1.0, 2.0, 3.0), (4.0, 100.0))
    assert not timings.reached
