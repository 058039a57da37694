"""How fast a TFLite file answers on this machine."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.children import pinned, run_child
from benchmarks.conditions import Conditions, Watch
from benchmarks.errors import BenchmarkError
from benchmarks.models import open_model, read_model
from benchmarks.timing import Sample, TimingRule, Timings, sample, summarise
from compression.models.precision import precision_of
from edge_client.runtime import runtime_name, runtime_version

REPEATS = 5  # each with an interpreter of its own: where it lies in memory moves its times
COLD_STARTS = 3
CALLS = 200  # with inputs and outputs copied, at most, to see what copying adds

Report = Callable[[str, float], None]  # what is being done, and the share of it done


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A process that starts, loads the model, answers once and ends; medians of a few."""

    process_ms: float  # from start to end of the process
    load_ms: float  # import of the runtime, reading and preparing the file
    first_run_ms: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class Setting:
    """How a file is run. `batch` is None for as many examples at a time as the file says."""

    threads: int = 1
    xnnpack: bool = True
    batch: int | None = None

    def __str__(self) -> str:
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        words += [] if self.xnnpack else ["no XNNPACK"]
        words += [] if self.batch is None else [f"batch {self.batch}"]
        return ", ".join(words)


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
            case.time(_share(rule))
    results = [case.result(rule, watch.conditions) for case in cases]
    float32 = next((n for n, result in enumerate(results) if result.computes == "float32"), None)
    return [
        result
        if float32 is None
        else replace(result, max_difference=_difference(case.outputs, cases[float32].outputs))
        for case, result in zip(cases, results, strict=True)
    ]


def _share(rule: TimingRule) -> TimingRule:
    """The rule of one repeat: all of them together come to the whole one."""
    return replace(
        rule,
        warm_up_s=rule.warm_up_s / REPEATS,
        min_runs=math.ceil(rule.min_runs / REPEATS),
        min_s=rule.min_s / REPEATS,
        max_runs=math.ceil(rule.max_runs / REPEATS),
        max_s=rule.max_s / REPEATS,
        precision=rule.precision * math.sqrt(REPEATS),
    )


class _Case:
    """One file in one setting while it is measured; each repeat is of a model that is loaded anew."""

    def __init__(self, path: Path, setting: Setting, pin: bool) -> None:
        self.outputs: list[np.ndarray] = []
        self._path, self._setting, self._pin = path, setting, pin
        self._data, self._file = read_model(path)
        self._loads: list[float] = []
        self._overheads: list[float] = []
        self._repeats: list[Sample] = []
        self._cold: ColdStart | None = None
        self._shapes: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self._path.name}, {self._setting}"

    def prepare(self) -> None:
        """A crash of the runtime is met here, in a process of its own."""
        with pinned(self._setting.threads if self._pin else None):
            self._cold = _cold_start(self._path, self._setting.threads)

    def time(self, rule: TimingRule) -> None:
        """One repeat."""
        setting = self._setting
        try:
            with pinned(setting.threads if self._pin else None):
                started = time.perf_counter()
                model = open_model(
                    self._data, threads=setting.threads, xnnpack=setting.xnnpack, batch=setting.batch
                )
                self._loads.append(1e3 * (time.perf_counter() - started))
                timed = sample(model.run, rule)
                calls = sample(model.call, replace(rule, warm_up_s=0.0, min_s=0.0, max_runs=CALLS))
        except (ValueError, RuntimeError) as exc:
            raise BenchmarkError(f"{self}: {str(exc).strip().splitlines()[0]}") from exc
        self._repeats.append(timed)
        self._overheads.append(statistics.median(calls.runs_ms) - statistics.median(timed.runs_ms))
        self._shapes, self.outputs = model.input_shapes, model.outputs()

    def result(self, rule: TimingRule, conditions: Conditions) -> LatencyResult:
        """What it came to, not yet compared with any other."""
        if self._cold is None:
            raise BenchmarkError(f"{self}: never loaded")
        word = precision_of(self._file).calibration
        return LatencyResult(
            file=str(self._path),
            sha256=hashlib.sha256(self._data).hexdigest(),
            bytes=len(self._data),
            computes="float32" if word == "none" else word,
            input_shapes=self._shapes,
            threads=self._setting.threads,
            xnnpack=self._setting.xnnpack,
            batch=self._setting.batch,
            runtime=f"{runtime_name()} {runtime_version()}",
            timings=summarise(self._repeats, precision=rule.precision),
            call_overhead_ms=max(0.0, statistics.median(self._overheads)),  # below 0 is noise
            load_ms=statistics.median(self._loads),
            cold_start=self._cold,
            max_difference=None,
            pinned=self._pin,
            throttled=conditions.throttled,
            conditions=conditions,
        )


def _cold_start(path: Path, threads: int) -> ColdStart:
    answers = []
    for _ in range(COLD_STARTS):
        answer, seconds = run_child("benchmarks.cold_start", [str(path), str(threads)])
        answers.append(answer | {"process_ms": 1e3 * seconds})
    names = ("process_ms", "load_ms", "first_run_ms", "peak_rss_mb")
    return ColdStart(**{name: statistics.median(answer[name] for answer in answers) for name in names})


def _difference(outputs: list[np.ndarray], reference: list[np.ndarray]) -> float | None:
    if [output.shape for output in outputs] != [output.shape for output in reference]:
        return None
    pairs = zip(outputs, reference, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
