"""How much a TFLite file takes: on the disk, in a download, and in the memory of a process that runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import read_model
from compression.size_report import SizeReport, size_report
from edge_client.measure.children import run_child


@dataclass(frozen=True, slots=True)
class SizeResult:
    """One file; `peak_rss_mb` is of a fresh process that loads it and answers once."""

    file: str
    sha256: str
    report: SizeReport
    peak_rss_mb: float


def benchmark_size(
    paths: Sequence[Path], *, report: Callable[[str, float], None] = lambda _what, _share: None
) -> list[SizeResult]:
    """Measure files; raise `BenchmarkError` for one that is missing, broken or does not run."""
    results = []
    for number, path in enumerate(paths):
        report(path.name, number / len(paths))
        data, _ = read_model(path)
        answer, _ = run_child("edge_client.measure.cold_start", [str(path), "1"])
        digest = hashlib.sha256(data).hexdigest()
        results.append(SizeResult(str(path), digest, size_report(data), float(answer["peak_rss_mb"])))
    return results
