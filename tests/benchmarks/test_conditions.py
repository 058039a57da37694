"""Sensors that say what they are told, and what a verdict makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from benchmarks.latency import LatencyResult, benchmark_latency
from benchmarks.latency_words import verdict
from edge_client.measure.conditions import Conditions, Watch
from edge_client.measure.timing import TimingRule
from tests.benchmarks.tiny import tiny_model

QUICK = TimingRule(warm_up_s=0.01, min_s=0.05, max_s=0.2)


def saying(*values: float) -> Iterator[float]:
    yield from values
    while True:
        yield values[-1]


def watched(temperature: Iterator[float], clock: Iterator[float], throttled: Iterator[float]) -> Conditions:
    watch = Watch(lambda: next(temperature), lambda: next(clock), lambda: bool(next(throttled)))
    with watch:
        watch.look()
    return watch.conditions


def test_the_extremes_are_kept() -> None:
    seen = watched(saying(50, 71, 60), saying(1500, 1500, 600), saying(0))
    assert seen.temperature_c == (50.0, 71.0)
    assert seen.clock_mhz == (600.0, 1500.0)
    assert (seen.throttled, seen.missing, seen.steady) == (False, (), False)


def test_throttling_in_between_is_not_forgotten() -> None:
    assert watched(saying(50), saying(1500), saying(0, 1, 0)).throttled is True


def test_what_is_missing_is_named() -> None:
    watch = Watch(lambda: None, lambda: 1500.0, lambda: None)
    with watch:
        pass
    assert watch.conditions.missing == ("temperature", "throttling")
    assert watch.conditions.throttled is None and watch.conditions.steady


def one_result(tmp_path: Path, conditions: Conditions) -> LatencyResult:
    [result] = benchmark_latency([tiny_model(tmp_path / "model.tflite")], rule=QUICK)
    return dataclasses.replace(result, conditions=conditions, throttled=conditions.throttled)


def test_a_throttled_run_cannot_be_overlooked(tmp_path: Path) -> None:
    result = one_result(tmp_path, watched(saying(80), saying(1500), saying(1)))
    assert "THROTTLED" in verdict([result])
    slow = dataclasses.replace(
        result, throttled=False, conditions=watched(saying(60), saying(1500, 600), saying(0))
    )
    assert "UNSTEADY CLOCK: 600 to 1500 MHz" in verdict([slow])
    blind = dataclasses.replace(slow, conditions=Conditions(None, None, None, ("clock", "temperature")))
    assert "for want of a sensor: clock, temperature" in verdict([blind])
