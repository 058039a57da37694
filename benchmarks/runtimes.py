"""Latencies under several TFLite runtimes in one run: a process for each, in the environment that has it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.latency import LatencyResult, Report, benchmark_latency
from compression.records import from_plain
from edge_client.measure.children import run_child
from edge_client.measure.errors import MeasureError
from edge_client.measure.timing import TimingRule
from edge_client.runtime import RUNTIMES
from edge_client.wire.measurement import ColdStart, Conditions, Timings

CHILD_TIMEOUT_S = 24 * 3600.0  # the rule of timing ends it long before


def benchmark_runtimes(
    runtimes: Sequence[str],
    pythons: Sequence[Path],
    paths: Sequence[Path],
    *,
    options: Mapping[str, Any],
    rule: TimingRule,
    report: Report,
) -> list[LatencyResult]:
    """`benchmark_latency` under each runtime.

    Args:
        runtimes: names of distributions.
        pythons: of other environments, beside the running one.
        paths: of the files.
        options: further keyword arguments of `benchmark_latency`.
        rule: of timing.
        report: told what is being done.

    Raises:
        BenchmarkError: a runtime is in none of the environments, or a file cannot be measured there.
    """
    homes = {name: home_of(name, [Path(sys.executable), *pythons]) for name in runtimes}
    results = []
    for number, (name, python) in enumerate(homes.items()):
        report(f"under {name}", number / len(homes))
        question = {
            "paths": [str(path.resolve()) for path in paths],
            "options": options,
            "rule": asdict(rule),
        }
        answer, _ = run_child(
            "benchmarks.runtimes",
            [json.dumps(question)],
            environment={"BRAMBLE_RUNTIME": name},
            timeout_s=CHILD_TIMEOUT_S,
            python=python,
        )
        results += [_result(plain) for plain in answer["models"]]
    return results


def home_of(runtime: str, pythons: Sequence[Path]) -> Path:
    """The first Python that has a runtime; raise `BenchmarkError` where none has."""
    if runtime not in RUNTIMES:
        raise BenchmarkError(f"unknown runtime {runtime!r}; known are {', '.join(RUNTIMES)}")
    for python in pythons:
        command = [str(python), "-c", f"import {RUNTIMES[runtime]}"]
        try:
            if subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0:
                return python
        except OSError as exc:
            raise BenchmarkError(f"--python {python}: {exc.strerror or exc}") from exc
    raise BenchmarkError(
        f"{runtime} is not installed here: name the Python of an environment that has it with --python"
    )


def _result(plain: Mapping[str, Any]) -> LatencyResult:
    """From JSON, which knows no tuples."""
    parts = {
        "timings": from_plain(Timings, plain["timings"]),
        "cold_start": from_plain(ColdStart, plain["cold_start"]),
        "conditions": from_plain(Conditions, plain["conditions"]),
        "input_shapes": tuple(map(tuple, plain["input_shapes"])),
    }
    return LatencyResult(**{**plain, **parts})


def main(arguments: Sequence[str]) -> int:
    """The child: measure what the first argument says under the runtime that BRAMBLE_RUNTIME names."""
    question = json.loads(arguments[0])
    paths = [Path(path) for path in question["paths"]]
    try:
        results = benchmark_latency(paths, **question["options"], rule=TimingRule(**question["rule"]))
    except (MeasureError, ImportError) as exc:
        print(json.dumps({"error": str(exc)}))
        return 1
    print(json.dumps({"models": [asdict(result) for result in results]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
