"""The results as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.latency import LatencyResult
from benchmarks.size import SizeResult
from benchmarks.training import TrainingResult
from compression.text_table import bytes_text, text_table
from edge_client.measure.environment import facts
from edge_client.measure.latency import Setting
from edge_client.wire.measurement import Environment


def latency_text(results: Sequence[LatencyResult]) -> str:
    """Two lines a file and setting, as terminals are narrow: its answers; its start. Milliseconds."""
    answers = ["file", "how", "p50 ms", "+-", "p90", "p99", "min", "std", "runs"]
    start = ["file", "how", "computes", "runtime", "call", "load", "start", "MB"]
    return "\n\n".join(
        [
            text_table(answers, [_answers_row(result) for result in results], left=(0, 1)),
            text_table(start, [_start_row(result) for result in results], left=range(4)),
        ]
    )


def _answers_row(result: LatencyResult) -> list[str]:
    times = result.timings
    figures = (times.p90_ms, times.p99_ms, times.min_ms, times.std_ms)
    return [
        Path(result.file).name,
        str(Setting(result.threads, result.xnnpack, result.batch)),
        f"{times.p50_ms:.4g}",
        f"{100 * times.precision:.1f} %",
        *[f"{figure:.3g}" for figure in figures],
        str(times.runs),
    ]


def _start_row(result: LatencyResult) -> list[str]:
    return [
        Path(result.file).name,
        str(Setting(result.threads, result.xnnpack, result.batch)),
        result.computes,
        result.runtime,
        f"{result.call_overhead_ms:.2g}",
        f"{result.load_ms:.3g}",
        f"{result.cold_start.process_ms:.0f}",
        f"{result.cold_start.peak_rss_mb:.0f}",
    ]


def size_text(results: Sequence[SizeResult]) -> str:
    """A line a file, then each file's layers."""
    totals = [
        [
            Path(result.file).name,
            bytes_text(result.report.file_bytes),
            bytes_text(result.report.zipped_bytes),
            bytes_text(result.report.constant_bytes),
            f"{100 * result.report.sparsity:.1f} %",
            f"{result.peak_rss_mb:.0f} MB",
        ]
        for result in results
    ]
    parts = [text_table(["file", "size", "zipped", "weights", "zeros", "process"], totals)]
    for result in results:
        rows = [
            [layer.name, layer.op, layer.type, str(layer.elements), bytes_text(layer.bytes)]
            for layer in result.report.layers
        ]
        parts.append(text_table([Path(result.file).name, "op", "type", "numbers", "size"], rows))
    return "\n\n".join(parts)


def training_text(result: TrainingResult) -> str:
    """A line an engine."""
    engines = {result.runtime: result.ours} | ({"Keras": result.keras} if result.keras else {})
    rows = [
        [
            name,
            f"{engine.ms_per_step:.4g}",
            f"{engine.p90_ms:.3g}",
            f"{engine.p99_ms:.3g}",
            f"{engine.min_ms:.3g}",
            str(engine.runs),
            f"{engine.examples_per_s:,.0f}",
            f"{engine.peak_rss_mb:.0f}",
            f"{engine.load_ms:.0f}",
        ]
        for name, engine in engines.items()
    ]
    shape = "x".join(str(extent) for extent in result.input)
    title = f"{result.model} {shape}, batch {result.batch}, {result.optimizer}, threads {result.threads}"
    header = ["engine", "ms/step", "p90", "p99", "min", "steps", "examples/s", "peak MB", "load ms"]
    return f"{title}\n{text_table(header, rows)}"


def environment_text(environment: Environment) -> str:
    """A line a fact; what the machine does not have is said to be unknown."""
    lines = {name: _shown(value) for name, value in facts(environment).items() if name != "packages"}
    lines |= environment.packages
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
