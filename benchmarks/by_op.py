"""Where the time of measured files goes, op by op, in the same settings and under the same runtimes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latency import LatencyResult
from benchmarks.runtimes import home_of
from compression.models.errors import TFLiteFileError
from compression.op_times import OpTimes, op_times_text, time_ops
from compression.timing_process import TimingError
from edge_client.measure.children import pinned

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class NoOpTimes:
    """A file whose ops could not be timed, and why not."""

    model: str
    skipped: str


def benchmark_ops(
    results: Sequence[LatencyResult], pythons: Sequence[Path] = (), *, report: Report
) -> list[OpTimes | NoOpTimes]:
    """Time the ops of each result's file, or say why that cannot be done.

    Args:
        results: of `benchmark_latency`, each of a file as it is, with no other batch.
        pythons: of other environments, for runtimes that are not in this one.
        report: told what is being done.
    """
    found: list[OpTimes | NoOpTimes] = []
    for number, result in enumerate(results):
        report(f"{Path(result.file).name}: each op alone", number / len(results))
        try:
            found.append(_ops_of(result, pythons))
        except (TFLiteFileError, TimingError) as exc:
            found.append(NoOpTimes(Path(result.file).name, str(exc)))
    return found


def _ops_of(result: LatencyResult, pythons: Sequence[Path]) -> OpTimes:
    runtime = result.runtime.partition(" ")[0]
    with pinned(result.threads if result.pinned else None):
        return time_ops(
            Path(result.file).name,
            Path(result.file).read_bytes(),
            threads=result.threads,
            xnnpack=result.xnnpack,
            python=str(home_of(runtime, [Path(sys.executable), *pythons])),
            runtime=runtime,
        )


def ops_text(found: Sequence[OpTimes | NoOpTimes]) -> str:
    """All of them, one below the other."""
    return "\n\n".join(_text(each) for each in found)


def _text(found: OpTimes | NoOpTimes) -> str:
    if isinstance(found, NoOpTimes):
        return f"{found.model}, by op: skipped, {found.skipped}"
    return op_times_text(found)
