"""How fast a TFLite file answers on this machine."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.children import run_child
from benchmarks.environment import firmware_throttled
from benchmarks.errors import BenchmarkError
from benchmarks.models import open_model, read_model
from benchmarks.timing import Progress, TimingRule, Timings, time_function
from compression.models.precision import precision_of
from edge_client.runtime import runtime_name, runtime_version

LOADS = 5  # of the interpreter in a warm process; the median counts
COLD_STARTS = 3
RUNS_FOR_P99 = 200  # below, the slowest hundredth is one run or none

Report = Callable[[str, float], None]  # what is being done, and the share of it done


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A process that starts, loads the model, answers once and ends; medians of a few."""

    process_ms: float  # from start to end of the process
    load_ms: float  # import of the runtime, reading and preparing the file
    first_run_ms: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """One file with one number of threads.

    Attributes:
        computes: "float32", "dynamic-range" or "full-integer", as the file says.
        load_ms: of the file in a process that has the runtime already.
        max_difference: largest difference of any output from the first float32 file's on the same
            input; None without one of the same shapes.
        throttled: whether the firmware slowed the processor down before or after; None off a Pi.
    """

    file: str
    sha256: str
    bytes: int
    computes: str
    input_shapes: tuple[tuple[int, ...], ...]
    threads: int
    runtime: str
    timings: Timings
    load_ms: float
    cold_start: ColdStart
    max_difference: float | None
    throttled: bool | None


def benchmark_latency(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    rule: TimingRule | None = None,
    report: Report | None = None,
) -> list[LatencyResult]:
    """Measure each file with each number of threads.

    Every file is loaded in a child process first: one that crashes the runtime is an error here.

    Raises:
        BenchmarkError: a file is missing, broken, needs ops that no device has, or does not run.
    """
    for path in paths:
        read_model(path)  # all of them, before the first minute is spent
    measured = [_measure(path, count, rule or TimingRule(), report) for path in paths for count in threads]
    reference = next((item for item in measured if item[0].computes == "float32"), None)
    return [
        replace(result, max_difference=None if reference is None else _difference(outputs, reference[1]))
        for result, outputs in measured
    ]


def _measure(
    path: Path, threads: int, rule: TimingRule, report: Report | None
) -> tuple[LatencyResult, list[np.ndarray]]:
    name = f"{path.name}, {threads} thread{'s' if threads > 1 else ''}"

    def said(what: str) -> Progress:
        return lambda share: report(f"{name}: {what}", share) if report else None

    data, file = read_model(path)
    before = firmware_throttled()
    cold = _cold_start(path, threads, said("cold start"))
    try:
        loads = []
        for _ in range(LOADS):
            started = time.perf_counter()
            model = open_model(data, threads=threads)
            loads.append(1e3 * (time.perf_counter() - started))
        timings = time_function(model.run, rule, progress=said("timing"))
        outputs = model.outputs()
    except (ValueError, RuntimeError) as exc:
        raise BenchmarkError(f"{path}: {str(exc).strip().splitlines()[0]}") from exc
    word = precision_of(file).calibration
    result = LatencyResult(
        file=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        computes="float32" if word == "none" else word,
        input_shapes=model.input_shapes,
        threads=threads,
        runtime=f"{runtime_name()} {runtime_version()}",
        timings=timings,
        load_ms=statistics.median(loads),
        cold_start=cold,
        max_difference=None,
        throttled=_either(before, firmware_throttled()),
    )
    return result, outputs


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


def _either(before: bool | None, after: bool | None) -> bool | None:
    return None if before is None or after is None else before or after


def verdict(results: Sequence[LatencyResult]) -> str:
    """What it comes to, in words."""
    best = min(results, key=lambda result: result.timings.p50_ms)
    times, name = best.timings, Path(best.file).name
    on = "one thread" if best.threads == 1 else f"{best.threads} threads"
    lines = [f"{name} answers in {_ms(times.p50_ms)}, {1e3 / times.p50_ms:,.0f} times a second on {on}."]
    if times.runs >= RUNS_FOR_P99:
        lines[0] = f"{lines[0][:-1]}; 1 answer in 100 takes longer than {_ms(times.p99_ms)}."
    plain = next((result for result in results if result.computes == "float32"), None)
    if plain is not None and plain.sha256 != best.sha256:
        lines.append(_against(best, plain))
    unsure = [result for result in results if not result.timings.reached]
    if unsure:
        worst = max(unsure, key=lambda result: result.timings.precision)
        percent = 100 * worst.timings.precision
        lines.append(
            f"Unsteady: the median of {Path(worst.file).name} is known to {percent:.1f} % only; "
            "close other programs, or allow more with --max-seconds."
        )
    if any(result.throttled for result in results):
        lines.append("THROTTLED: the firmware slowed the processor down; cool the board or power it better.")
    return "\n".join(lines)


def _against(best: LatencyResult, plain: LatencyResult) -> str:
    faster, smaller = plain.timings.p50_ms / best.timings.p50_ms, plain.bytes / best.bytes
    text = f"It is {faster:.1f} times as fast as {Path(plain.file).name} and {smaller:.1f} times as small"
    if best.max_difference is None:
        return f"{text}; their answers cannot be compared, the shapes differ."
    return f"{text}; on made-up inputs the answers differ by at most {best.max_difference:.3g}."


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value >= 0.1 else f"{1e3 * value:.3g} us"
