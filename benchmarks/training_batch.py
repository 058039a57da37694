"""The one batch that both engines train on, and the line that a child prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edge_client.health import peak_rss_mb
from edge_client.measure.timing import TimingRule, time_function

LEARNING_RATE = 1e-3
SEED = 11


def made_up_batch(
    shape: Sequence[int], batch: int, classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Inputs from 0 to 1 and labels that take turns."""
    rng = np.random.default_rng(SEED)
    return rng.random((batch, *shape), dtype=np.float32), np.arange(batch, dtype=np.int32) % classes


def time_steps(step: Callable[[], float], *, max_s: float, load_ms: float) -> dict[str, object]:
    """Time training steps; `step` returns the loss before it."""
    losses: list[float] = []
    timings = time_function(
        lambda: losses.append(step()), TimingRule(min_runs=30, max_s=max_s, warm_up_runs=5)
    )
    return {
        "ms_per_step": timings.p50_ms,
        "p90_ms": timings.p90_ms,
        "p99_ms": timings.p99_ms,
        "min_ms": timings.min_ms,
        "runs": timings.runs,
        "first_step_ms": timings.first_ms,
        "interval_ms": timings.interval_ms,
        "peak_rss_mb": peak_rss_mb(),
        "load_ms": load_ms,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "samples_ms": timings.samples_ms,
    }


def answer(plain: dict[str, object]) -> None:
    """Print the child's last line."""
    print(json.dumps(plain))
