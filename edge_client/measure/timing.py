"""Timing one function: warm-up apart, and for as long as the median needs to be known.

The interval of the median is taken from the order statistics, which asks nothing of the distribution: with n
sorted runs it lies between those of rank n/2 -+ 1.96 sqrt(n)/2 (95 %; Conover, "Practical Nonparametric
Statistics", 3.2). Timings have a long right tail, so the mean and its standard error would promise too much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_client.wire.measurement import MAX_RUNS, MAX_SAMPLES, Timings

Z_95 = 1.959964  # of the normal distribution, two-sided
LOOK_EVERY = 16  # runs between two looks at the interval: sorting is not free
Progress = Callable[[float], None]  # share done, 0 to 1


@dataclass(frozen=True, slots=True)
class TimingRule:
    """When to stop. Seconds are wall time."""

    warm_up_runs: int = 5
    warm_up_s: float = 0.2  # caches, branch predictors and the governor settle in about this
    min_runs: int = 50
    min_s: float = 1.0  # a fast model's median is known at once; its slowest hundredth is not
    max_runs: int = MAX_RUNS
    max_s: float = 10.0
    precision: float = 0.01  # of the median: half the interval's width over the median


def time_function(
    run: Callable[[], object],
    rule: TimingRule | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress | None = None,
) -> Timings:
    """Call `run` again and again and time each call."""
    rule = rule or TimingRule()
    return summarise([sample(run, rule, clock=clock, progress=progress)], precision=rule.precision)


@dataclass(frozen=True, slots=True)
class Sample:
    """The runs of one repeat, in milliseconds; the warm-up apart."""

    runs_ms: tuple[float, ...]
    first_ms: float
    warm_up_runs: int


def sample(
    run: Callable[[], object],
    rule: TimingRule,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress | None = None,
) -> Sample:
    """Time calls of `run` until the rule is content."""
    started, before = clock(), clock()
    run()
    first_ms, warm_up = 1e3 * (clock() - before), 1
    while warm_up < rule.warm_up_runs or clock() - started < rule.warm_up_s:
        run()
        warm_up += 1
        if clock() - started > rule.max_s:
            break
    samples: list[float] = []
    started = clock()
    while not _enough(samples, rule, clock() - started):
        before = clock()
        run()
        samples.append(1e3 * (clock() - before))
        if progress is not None and len(samples) % LOOK_EVERY == 0:
            progress(_share(samples, rule, clock() - started))
    return Sample(tuple(samples), first_ms, warm_up)


def summarise(repeats: Sequence[Sample], *, precision: float) -> Timings:
    """Statistics of all runs of all repeats together."""
    samples = [run for repeat in repeats for run in repeat.runs_ms]
    low, high = median_interval(samples)
    p50, p90, p99 = (float(value) for value in np.percentile(samples, [50, 90, 99]))
    return Timings(
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=float(np.min(samples)),
        mean_ms=float(np.mean(samples)),
        std_ms=float(np.std(samples, ddof=1)) if len(samples) > 1 else 0.0,
        runs=len(samples),
        first_ms=repeats[0].first_ms,
        warm_up_runs=sum(repeat.warm_up_runs for repeat in repeats),
        interval_ms=(low, high),
        reached=(high - low) / 2 <= precision * p50,
        samples_ms=tuple(thinned(repeat.runs_ms, MAX_SAMPLES // len(repeats)) for repeat in repeats),
    )


def thinned(samples: Sequence[float], most: int) -> tuple[float, ...]:
    """At most so many of them, evenly, to seven digits: enough to compare two runs by."""
    step = math.ceil(len(samples) / most)
    return tuple(float(f"{sample:.7g}") for sample in samples[::step])


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median; with fewer than 6 samples their whole range, which holds less."""
    ordered = np.sort(np.asarray(samples, np.float64))
    count = len(ordered)
    spread = Z_95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - spread))
    high = min(count - 1, math.ceil(count / 2 + spread))
    return float(ordered[low]), float(ordered[high])


def _enough(samples: Sequence[float], rule: TimingRule, elapsed_s: float) -> bool:
    count = len(samples)
    if count >= rule.max_runs or (count and elapsed_s >= rule.max_s):
        return True
    if count < rule.min_runs or elapsed_s < min(rule.min_s, rule.max_s) or count % LOOK_EVERY:
        return False
    low, high = median_interval(samples)
    return (high - low) / 2 <= rule.precision * float(np.median(samples))


def _share(samples: Sequence[float], rule: TimingRule, elapsed_s: float) -> float:
    """How far along: by time, or by runs with the interval narrowing as the root of their number."""
    low, high = median_interval(samples)
    width = (high - low) / 2 / max(float(np.median(samples)), 1e-12)
    narrowed = min(1.0, (rule.precision / width) ** 2) if width > 0 else 1.0
    least = min(1.0, len(samples) / rule.min_runs, elapsed_s / rule.min_s if rule.min_s else 1.0)
    return max(min(1.0, elapsed_s / rule.max_s) if rule.max_s else 1.0, min(narrowed, least))
