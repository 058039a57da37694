"""What a fleet's latencies come to: a table, and words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.latency_words import milliseconds
from compression.text_table import text_table
from edge_client.wire.measurement import Measurement

FLAGS = ("under-voltage", "a capped clock", "throttling", "the temperature limit")  # the firmware's bits
SINCE_START = 16  # bits up
HEADER = ("device", "board", "runtime", "p50 ms", "p90", "p99", "load", "MB", "temperature", "throttled")
Row = Mapping[str, Any]


def device_verdict(found: Measurement) -> str:
    """One device in plain words; what makes its figures doubtful comes first."""
    times = found.timings
    words = [f"{1e3 / times.p50_ms:,.0f} answers a second"] if times.p50_ms else []
    if found.conditions.throttled:
        now = ", ".join(_flags(found.throttled_flags, 0)) or "at some moment"
        words.insert(0, f"THROTTLED ({now}): cool it or power it better")
    elif not found.conditions.steady:
        low, high = found.conditions.clock_mhz or (0.0, 0.0)
        words.insert(0, f"UNSTEADY CLOCK ({low:.0f} to {high:.0f} MHz): set its governor to performance")
    elif earlier := _flags(found.throttled_flags, SINCE_START):
        words.append(f"has met {' and '.join(earlier)} since its start")
    if not times.reached:
        words.append(f"median known to {100 * times.precision:.1f} % only")
    return "; ".join(words)


def _flags(flags: int | None, shift: int) -> list[str]:
    return [name for bit, name in enumerate(FLAGS) if (flags or 0) >> shift & 1 << bit]


def fleet_text(rows: Sequence[Row]) -> str:
    """A line a device."""
    width = max(len(row["verdict"]) for row in rows)
    cells = [[*_cells(row), row["verdict"].ljust(width)] for row in rows]
    return text_table([*HEADER, "verdict".ljust(width)], cells)


def _cells(row: Row) -> list[str]:
    if "timings" not in row:
        return [row["device"], row["board"], *["-"] * (len(HEADER) - 2)]
    times = row["timings"]
    return [
        row["device"],
        row["board"],
        row["runtime"],
        f"{times['p50_ms']:.4g}",
        f"{times['p90_ms']:.3g}",
        f"{times['p99_ms']:.3g}",
        f"{row['load_ms']:.3g}",
        f"{row['cold_start']['peak_rss_mb']:.0f}",
        _temperature(row["conditions"]),
        {None: "unknown", True: "YES", False: "no"}[row["throttled"]],
    ]


def _temperature(conditions: Row) -> str:
    if conditions["temperature_c"] is None:
        return "no sensor"
    return f"{conditions['temperature_c'][0]:.0f} to {conditions['temperature_after_c']:.0f} C"


def fleet_verdict(rows: Sequence[Row]) -> str:
    """The fleet in words: who is fastest and slowest, and who is missing and why."""
    measured = sorted((row for row in rows if "timings" in row), key=_p50)
    lines = [f"{len(measured)} of {len(rows)} devices were measured."]
    if measured:
        fastest, slowest = measured[0], measured[-1]
        middle = statistics.median(map(_p50, measured))
        lines[0] = f"{lines[0][:-1]}; half of them answer within {milliseconds(middle)}."
        if len(measured) > 1:
            lines.append(
                f"Fastest: {fastest['device']}, {milliseconds(_p50(fastest))}. "
                f"Slowest: {slowest['device']}, {milliseconds(_p50(slowest))}, "
                f"{_p50(slowest) / _p50(fastest):.1f} times as long."
            )
    if slowed := [row["device"] for row in measured if row["throttled"]]:
        lines.append(f"THROTTLED: {', '.join(slowed)}; their times are not the model's.")
    lines += [f"{row['device']}: {row['verdict']}." for row in rows if "timings" not in row]
    missing = sorted({name for row in measured for name in row["conditions"]["missing"]})
    if missing:
        lines.append(f"Not watched everywhere, for want of a sensor: {', '.join(missing)}.")
    return "\n".join(lines)


def _p50(row: Row) -> float:
    return float(row["timings"]["p50_ms"])
