"""Measuring in a fresh process: nothing is warm, peak memory is the model's own, a crash is only an error.

A child is a module of this package run with ``-m``; it prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900.0


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    python: Path | None = None,
) -> tuple[dict[str, Any], float]:
    """What a child printed, and the seconds from its start to its end.

    Raises:
        BenchmarkError: it failed, crashed or took too long.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    started = time.perf_counter()
    try:
        child = subprocess.run(
            [str(python or sys.executable), "-m", module, *arguments],
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as exc:
        raise BenchmarkError(f"{python or sys.executable} does not run: {exc.strerror or exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"{module} gave no answer within {timeout_s:g} s") from exc
    seconds = time.perf_counter() - started
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise BenchmarkError(
            f"the process that was measured was ended by {name}: the model crashes the runtime"
        )
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError) as exc:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise BenchmarkError(f"{module} failed: {lines[-1][:300]}") from exc
    if "error" in answer:
        raise BenchmarkError(str(answer["error"]))
    return answer, seconds


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes).

    From VmHWM: ``getrusage`` keeps the parent's peak across exec.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchmarkError("/proc/self/status has no VmHWM: peak memory cannot be measured on this kernel")


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """`pin` for a while; None leaves everything as it is."""
    before = os.sched_getaffinity(0)
    if threads is not None:
        pin(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(threads: int) -> None:
    """Keep this process on as many processors as it has threads: no library may quietly take more."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[-threads:])  # the last ones: interrupts favour the first
