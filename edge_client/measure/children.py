"""Measuring in a fresh process: nothing is warm, peak memory is the model's own, a crash is only an error.

A child is a module run with ``-m``; it prints one JSON object as its last line.
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

from edge_client.measure.errors import MeasureError

ROOT = Path(__file__).resolve().parents[2]
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
        MeasureError: it failed, crashed or took too long.
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
        raise MeasureError(f"{python or sys.executable} does not run: {exc.strerror or exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise MeasureError(f"{module} gave no answer within {timeout_s:g} s") from exc
    seconds = time.perf_counter() - started
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise MeasureError(
            f"the process that was measured was ended by {name}: the model crashes the runtime"
        )
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError) as exc:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise MeasureError(f"{module} failed: {lines[-1][:300]}") from exc
    if "error" in answer:
        raise MeasureError(str(answer["error"]))
    return answer, seconds


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """`pin` for a while; None leaves everything as it is, where a hardened service may not even ask."""
    if threads is None:
        yield
        return
    before = os.sched_getaffinity(0)
    pin(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(threads: int) -> None:
    """Keep this process on as many processors as it has threads: no library may quietly take more."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[-threads:])  # the last ones: interrupts favour the first
