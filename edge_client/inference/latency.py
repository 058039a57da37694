"""How long one answer takes on this device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_client.inference.predictor import FloatArray, Predictor

WARM_UP_RUNS = 10
RUNS = 100
BUDGET_S = 2.0  # a slow model on a slow board: fewer runs rather than a long gate


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one example, warm-up apart."""

    p50_ms: float
    p99_ms: float
    runs: int


def measure_latency(
    predictor: Predictor,
    example: FloatArray,
    *,
    runs: int = RUNS,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time single predictions of one preprocessed example; at least one run whatever the budget."""
    for _ in range(WARM_UP_RUNS):
        predictor.predict_one(example)
    times: list[float] = []
    started = clock()
    while len(times) < runs and (not times or clock() - started < budget_s):
        before = clock()
        predictor.predict_one(example)
        times.append(1e3 * (clock() - before))
    return Latency(float(np.percentile(times, 50)), float(np.percentile(times, 99)), len(times))
