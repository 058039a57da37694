"""How long one answer takes on this device: the gate's and the release's figure, in two seconds.

`bramble-bench latency` measures the same thing at leisure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from compression.records import Between, Record
from edge_client.inference.predictor import FloatArray, Predictor

WARM_UP_RUNS = 10
RUNS = 100
BUDGET_S = 2.0  # a slow model on a slow board: fewer runs rather than a long gate

Milliseconds = Annotated[float, Between(0, 1e9)]


@dataclass(frozen=True, slots=True)
class Latency(Record):
    """Milliseconds for one example, warm-up apart; the very first run on its own, as a caller feels it."""

    p50_ms: Milliseconds
    p99_ms: Milliseconds
    runs: Annotated[int, Between(1, 1 << 40)]
    first_ms: Milliseconds = 0.0


def measure_latency(
    predictor: Predictor,
    example: FloatArray,
    *,
    runs: int = RUNS,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time single predictions of one preprocessed example; at least one run whatever the budget.

    Half the budget is the warm-up's: a model of a second an answer gets one warm-up run, not ten.
    """

    def timed() -> float:
        before = clock()
        predictor.predict_one(example)
        return 1e3 * (clock() - before)

    started = clock()
    first = timed()
    for _ in range(WARM_UP_RUNS - 1):
        if clock() - started > budget_s / 2:
            break
        timed()
    times: list[float] = []
    started = clock()
    while len(times) < runs and (not times or clock() - started < budget_s):
        times.append(timed())
    return Latency(float(np.percentile(times, 50)), float(np.percentile(times, 99)), len(times), first)
