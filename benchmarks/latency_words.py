"""What latencies come to, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.latency import LatencyResult

RUNS_FOR_P99 = 200  # below, the slowest hundredth is one run or none


def verdict(results: Sequence[LatencyResult]) -> str:
    """What it comes to, in words."""
    best = min(results, key=lambda result: result.timings.p50_ms)
    times, name = best.timings, Path(best.file).name
    on = "one thread" if best.threads == 1 else f"{best.threads} threads"
    per_second = f"{1e3 / times.p50_ms:,.0f}"
    lines = [f"{name} answers in {milliseconds(times.p50_ms)}, {per_second} times a second on {on}."]
    if times.runs >= RUNS_FOR_P99:
        lines[0] = f"{lines[0][:-1]}; 1 answer in 100 takes longer than {milliseconds(times.p99_ms)}."
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
    return "\n".join([*lines, *_conditions(results)])


def _conditions(results: Sequence[LatencyResult]) -> list[str]:
    """What the machine did meanwhile that the figures cannot show."""
    lines = []
    if any(result.throttled for result in results):
        lines.append(
            "THROTTLED: the firmware slowed the processor down; cool the board or power it better, "
            "and measure again."
        )
    elif not all(result.conditions.steady for result in results):
        clocks = [mhz for result in results for mhz in result.conditions.clock_mhz or ()]
        lines.append(
            f"UNSTEADY CLOCK: {min(clocks):.0f} to {max(clocks):.0f} MHz while measuring; "
            "set the governor to performance."
        )
    missing = sorted({name for result in results for name in result.conditions.missing})
    if missing:
        lines.append(f"Not watched, for want of a sensor: {', '.join(missing)}.")
    return lines


def _against(best: LatencyResult, plain: LatencyResult) -> str:
    faster, smaller = plain.timings.p50_ms / best.timings.p50_ms, plain.bytes / best.bytes
    text = f"It is {faster:.1f} times as fast as {Path(plain.file).name} and {smaller:.1f} times as small"
    if best.max_difference is None:
        return f"{text}; their answers cannot be compared, the shapes differ."
    return f"{text}; on made-up inputs the answers differ by at most {best.max_difference:.3g}."


def milliseconds(value: float) -> str:
    """As a person reads it."""
    return f"{value:.3g} ms" if value >= 0.1 else f"{1e3 * value:.3g} us"
