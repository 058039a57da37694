"""How fast a TFLite file answers on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.models import read_model
from compression.models.precision import precision_of
from edge_client.measure.conditions import Watch
from edge_client.measure.errors import MeasureError
from edge_client.measure.latency import Setting, TimedModel, share_of
from edge_client.measure.timing import TimingRule
from edge_client.runtime import runtime_name, runtime_version
from edge_client.wire.measurement import REPEATS, ColdStart, Conditions, Timings

Report = Callable[[str, float], None]  # what is being done, and the share of it done


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """One file in one setting.

    Attributes:
        computes: "float32", "dynamic-range" or "full-integer", as the file says.
        xnnpack: whether the runtime might use it; it does where the file's ops allow it.
        call_overhead_ms: what a call from Python adds to the invocation: inputs in, outputs out; medians.
        load_ms: of the file in a process that has the runtime already.
        cold_start: as the file says, with so many threads: batch and XNNPACK do not change it.
        max_difference: largest difference of any output from the first float32 file's on the same
            input; None without one of the same shapes.
        pinned: whether it was kept on as many processors as it has threads.
        throttled: whether the firmware slowed the processor down at any time; None off a Pi.
    """

    file: str
    sha256: str
    bytes: int
    computes: str
    input_shapes: tuple[tuple[int, ...], ...]
    threads: int
    xnnpack: bool
    batch: int | None
    runtime: str
    timings: Timings
    call_overhead_ms: float
    load_ms: float
    cold_start: ColdStart
    max_difference: float | None
    pinned: bool
    throttled: bool | None
    conditions: Conditions


def benchmark_latency(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    xnnpack: Sequence[bool] = (True,),
    batches: Sequence[int | None] = (None,),
    pin: bool = False,
    rule: TimingRule | None = None,
    report: Report | None = None,
) -> list[LatencyResult]:
    """Measure each file in each setting.

    Every file is loaded in a child process first: one that crashes the runtime is an error here.

    Raises:
        BenchmarkError: a file is missing, broken, needs ops that no device has, or does not run.
    """
    for path in paths:
        read_model(path)  # all of them, before the first minute is spent
    rule, say = rule or TimingRule(), report or (lambda _what, _share: None)
    settings = [Setting(*values) for values in product(threads, xnnpack, batches)]
    cases = [_Case(path, setting, pin) for path, setting in product(paths, settings)]
    with Watch() as watch:
        for number, case in enumerate(cases):
            say(f"{case}: cold start", 0.3 * number / len(cases))
            case.prepare()
        for number, case in enumerate(cases * REPEATS):  # in turn: a busy minute is nobody's alone
            say(f"{case}: timing", 0.3 + 0.7 * number / len(cases) / REPEATS)
            case.time(share_of(rule))
    results = [case.result(rule, watch.conditions) for case in cases]
    float32 = next((n for n, result in enumerate(results) if result.computes == "float32"), None)
    return [
        result
        if float32 is None
        else replace(result, max_difference=_difference(case.outputs, cases[float32].outputs))
        for case, result in zip(cases, results, strict=True)
    ]


class _Case:
    """One file in one setting while it is measured."""

    def __init__(self, path: Path, setting: Setting, pin: bool) -> None:
        self._path, self._setting, self._pin = path, setting, pin
        self._data, self._file = read_model(path)
        self._timed = TimedModel(path, self._data, setting, pin=pin)

    def __str__(self) -> str:
        return f"{self._path.name}, {self._setting}"

    @property
    def outputs(self) -> list[np.ndarray]:
        """Of the last repeat."""
        return self._timed.outputs

    def prepare(self) -> None:
        """A crash of the runtime is met here, in a process of its own."""
        self._timed.start_cold()

    def time(self, rule: TimingRule) -> None:
        """One repeat."""
        try:
            self._timed.repeat(rule)
        except MeasureError as exc:
            raise BenchmarkError(f"{self}: {exc}") from exc

    def result(self, rule: TimingRule, conditions: Conditions) -> LatencyResult:
        """What it came to, not yet compared with any other."""
        timed = self._timed
        word = precision_of(self._file).calibration
        return LatencyResult(
            file=str(self._path),
            sha256=hashlib.sha256(self._data).hexdigest(),
            bytes=len(self._data),
            computes="float32" if word == "none" else word,
            input_shapes=timed.input_shapes,
            threads=self._setting.threads,
            xnnpack=self._setting.xnnpack,
            batch=self._setting.batch,
            runtime=f"{runtime_name()} {runtime_version()}",
            timings=timed.timings(rule),
            call_overhead_ms=timed.call_overhead_ms,
            load_ms=timed.load_ms,
            cold_start=timed.cold_start,
            max_difference=None,
            pinned=self._pin,
            throttled=conditions.throttled,
            conditions=conditions,
        )


def _difference(outputs: list[np.ndarray], reference: list[np.ndarray]) -> float | None:
    if [output.shape for output in outputs] != [output.shape for output in reference]:
        return None
    pairs = zip(outputs, reference, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
