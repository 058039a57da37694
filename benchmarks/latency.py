"""How fast a TFLite file answers on this machine."""

from __future__ import annotations

import hashlib
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
from benchmarks.models import LoadedModel, open_model, read_model
from benchmarks.timing import Progress, TimingRule, Timings, time_function
from compression.models.precision import precision_of
from edge_client.runtime import runtime_name, runtime_version

LOADS = 5  # of the interpreter in a warm process; the median counts
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
    settings = [Setting(*values) for values in product(threads, xnnpack, batches)]
    measured = []
    for path, setting in product(paths, settings):
        with pinned(setting.threads if pin else None):
            measured.append(_measure(path, setting, pin, rule or TimingRule(), report))
    reference = next((item for item in measured if item[0].computes == "float32"), None)
    return [
        replace(result, max_difference=None if reference is None else _difference(outputs, reference[1]))
        for result, outputs in measured
    ]


def _measure(
    path: Path, setting: Setting, pin: bool, rule: TimingRule, report: Report | None
) -> tuple[LatencyResult, list[np.ndarray]]:
    def said(what: str) -> Progress:
        return lambda share: report(f"{path.name}, {setting}: {what}", share) if report else None

    data, file = read_model(path)
    with Watch() as watch:
        cold = _cold_start(path, setting.threads, said("cold start"))
        try:
            model, load_ms = _loaded(data, setting)
            timings = time_function(model.run, rule, progress=said("timing"))
            overhead_ms = _overhead_ms(model, timings.p50_ms, rule.max_s / 10)
            outputs = model.outputs()
        except (ValueError, RuntimeError) as exc:
            raise BenchmarkError(f"{path}, {setting}: {str(exc).strip().splitlines()[0]}") from exc
    word = precision_of(file).calibration
    result = LatencyResult(
        file=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        computes="float32" if word == "none" else word,
        input_shapes=model.input_shapes,
        threads=setting.threads,
        xnnpack=setting.xnnpack,
        batch=setting.batch,
        runtime=f"{runtime_name()} {runtime_version()}",
        timings=timings,
        call_overhead_ms=overhead_ms,
        load_ms=load_ms,
        cold_start=cold,
        max_difference=None,
        pinned=pin,
        throttled=watch.conditions.throttled,
        conditions=watch.conditions,
    )
    return result, outputs


def _loaded(data: bytes, setting: Setting) -> tuple[LoadedModel, float]:
    """The model, and the median of the milliseconds that loading it takes."""
    loads = []
    for _ in range(LOADS):
        started = time.perf_counter()
        model = open_model(data, threads=setting.threads, xnnpack=setting.xnnpack, batch=setting.batch)
        loads.append(1e3 * (time.perf_counter() - started))
    return model, statistics.median(loads)


def _overhead_ms(model: LoadedModel, invoke_ms: float, max_s: float) -> float:
    """Median of whole calls less that of the invocations; noise can make it negative, which means none."""
    rule = TimingRule(warm_up_s=0.0, min_s=0.0, max_runs=CALLS, max_s=max_s)
    return max(0.0, time_function(model.call, rule).p50_ms - invoke_ms)


def _cold_start(path: Path, threads: int, progress: Progress) -> ColdStart:
    answers = []
    for number in range(COLD_STARTS):
        answer, seconds = run_child("benchmarks.cold_start", [str(path), str(threads)])
        answers.append(answer | {"process_ms": 1e3 * seconds})
        progress((number + 1) / COLD_STARTS)
    names = ("process_ms", "load_ms", "first_run_ms", "peak_rss_mb")
    return ColdStart(**{name: statistics.median(answer[name] for answer in answers) for name in names})


def _difference(outputs: list[np.ndarray], reference: list[np.ndarray]) -> float | None:
    if [output.shape for output in outputs] != [output.shape for output in reference]:
        return None
    pairs = zip(outputs, reference, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
