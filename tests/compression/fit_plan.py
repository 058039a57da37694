"""Fits the memory plan's line: ``python -m tests.compression.fit_plan [RANDOM_MODELS]``, some minutes.

Compiles the zoo in several sizes and random models that a user might write, trains each in a fresh process of
each runtime, and prints the coefficients for `compression.trainable.plan.FITS` with the errors that are left,
also for models that were not fitted to.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from broker_server.models import MODELS, build_model
from compression.tf import quiet
from compression.trainable import CompileResult, TrainableError, compile_trainable
from compression.trainable.footprint import RUNTIMES
from compression.trainable.plan import Load, loads_of
from compression.trainable.rules import by_rule
from tests.compression.trainable_cases import examples, input_of, run_in_child
from tests.compression.user_models import user_model

SHAPES = ((32, 32, 3), (64, 64, 1), (96, 96, 1), (128, 128, 1))
SPLITS = ((16, None), (8, None), (16, 4))  # batch and micro-batch


@dataclass(frozen=True)
class Point:
    """One program: what goes into the line, and the measured peak, both by runtime."""

    name: str
    loads: dict[str, Load]
    peak_mb: dict[str, float]


def programs(count: int) -> Iterator[tuple[str, Any, int, int | None]]:
    """Name, model, batch and micro-batch, the zoo before the others."""
    for name, entry in MODELS.items():
        for shape in SHAPES if entry.kind == "image" else (entry.default_input,):
            for batch, micro in SPLITS:
                yield f"{name} {shape} {batch} {micro}", build_model(name, shape, 2), batch, micro
    for seed in range(count):
        model, batch = user_model(seed)
        yield f"user model {seed}", model, batch, None
        if seed % 4 == 0:
            yield f"user model {seed}, split", model, batch, batch // 4


def measure(name: str, model: Any, batch: int, micro: int | None) -> Point | None:
    """Compile, and train in both runtimes; None for batch normalisation in micro-batches."""
    shape = tuple(model.input_shape[1:])
    common: dict[str, Any] = {"name": "net", "input": input_of(shape), "classes": ["no", "yes"]}
    try:
        with quiet():
            result: CompileResult = compile_trainable(
                model, batch_size=batch, micro_batch=micro, lowerings=by_rule, **common
            )
    except TrainableError:
        return None
    batches = [examples(np.random.default_rng(0), shape, batch) for _ in range(3)]
    peaks = {}
    for runtime in RUNTIMES:
        with tempfile.TemporaryDirectory() as directory:
            outcome = run_in_child(
                result.bundle,
                result.weights,
                batches,
                rate=0.001,
                directory=Path(directory),
                runtime=runtime,
            )
        peaks[runtime] = outcome.peak_rss_mb
    return Point(name, loads_of(result.bundle), peaks)


def fit(points: list[Point], runtime: str) -> Any:
    """Coefficients: base in MB, arenas, workspace, weights, kB an op."""
    rows, peaks = terms(points, runtime)
    return nnls(rows / peaks[:, None], np.ones(len(peaks)))[0]


def terms(points: list[Point], runtime: str) -> tuple[Any, Any]:
    """What the line is made of, in MB and 1000 ops, and the peaks."""
    scale = np.array([1e6, 1e6, 1e6, 1e3])
    rows = np.array([[1.0, *(np.array(astuple(point.loads[runtime])) / scale)] for point in points])
    return rows, np.array([point.peak_mb[runtime] for point in points])


def report(points: list[Point]) -> None:
    """The line through all, its errors, and those of every fifth point from a line through the others."""
    for runtime in RUNTIMES:
        line = fit(points, runtime)
        rows, peaks = terms(points, runtime)
        errors = np.abs(rows @ line / peaks - 1)
        apart = []
        for part in range(5):
            others = [point for place, point in enumerate(points) if place % 5 != part]
            left, wanted = terms(points[part::5], runtime)
            apart += np.abs(left @ fit(others, runtime) / wanted - 1).tolist()
        worst = points[int(errors.argmax())].name
        print(f"{runtime}: {', '.join(f'{value:.2f}' for value in line)}   from {len(points)} programs")
        print(
            f"  error: half within {np.median(errors):.1%}, 95 % within {np.quantile(errors, 0.95):.1%}, "
            f"largest {errors.max():.1%} ({worst}); of models not fitted to: 95 % within "
            f"{np.quantile(apart, 0.95):.1%}, largest {max(apart):.1%}"
        )


def main(count: int) -> None:
    """Measure and print."""
    points = []
    for name, model, batch, micro in programs(count):
        point = measure(name, model, batch, micro)
        if point is not None:
            points.append(point)
            print(name, {runtime: round(peak, 1) for runtime, peak in point.peak_mb.items()}, flush=True)
    report(points)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
