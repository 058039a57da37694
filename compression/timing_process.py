"""Timing in a process of its own, by any Python that has NumPy and a TFLite runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compression.errors import BrambleError

TIMEOUT_S = 600.0
CHECKOUT = Path(__file__).resolve().parents[1]


class TimingError(BrambleError, ValueError):
    """The process that times gives no answer; the message says whose and why."""


def timed_by(
    module: str, arguments: Sequence[str], *, python: str | None = None, runtime: str | None = None
) -> dict[str, Any]:
    """The JSON that a module prints as its last line.

    Args:
        module: with a ``main`` of its own.
        arguments: of it.
        python: an interpreter with NumPy and a TFLite runtime; None is this one.
        runtime: distribution name of the one to take, where it has two; None for the first there is.

    Raises:
        TimingError: it does not start, fails, crashes or takes too long.
    """
    python = python or sys.executable
    chosen = {} if runtime is None else {"BRAMBLE_RUNTIME": runtime}
    paths = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [python, "-m", module, *arguments],
            env={**os.environ, **chosen, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise TimingError(f"{python} cannot time anything: {exc}") from exc
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise TimingError(f"{python} cannot time anything: {name} ended the runtime")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as exc:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise TimingError(f"{python} cannot time anything: {said[-1][:200]}") from exc
    return answer
