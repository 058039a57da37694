"""A released model's first run, in a process of its own.

The runtimes are C++ and trust the file they are given: with three random bytes of a small model changed,
tflite-runtime 2.14 died of a signal for 63 files in 500 (ai-edge-litert 2.3 for none). A hash proves that the
file is the one that was signed, not that this device's build of the runtime survives it. In the agent a crash
would be fatal over and over, since the release is there again after each restart. A child's death is only an
answer, and should the model want all memory, the child is what the kernel ends first.

It costs 0.3 s on an x86 core and, while it lasts, about 48 MB beside the agent. Run as
``python -m edge_client.inference.trial 64x64x1 CLASSES THREADS`` with the model on standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression.spec import ModelSpec
from edge_client.inference.predictor import Network, PredictionError

TIMEOUT_S = 120.0  # start and one run; EfficientNet in int8 takes seconds on the slowest board
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of the child. Figures are None where it did not get that far."""

    ran: bool
    reason: str  # why not; empty where it ran
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_rss_mb: float | None = None  # of a process that does nothing but run this model


def try_model(
    model: bytes,
    spec: ModelSpec,
    *,
    threads: int = 1,
    timeout_s: float = TIMEOUT_S,
    command: Sequence[str] = (sys.executable, "-m", __name__),
) -> Trial:
    """Load and run a model once where a crash does no harm."""
    shape = "x".join(str(extent) for extent in spec.input.shape)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        child = subprocess.run(
            [*command, shape, str(len(spec.classes)), str(threads)],
            input=model,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired:
        return Trial(False, f"the model gave no answer within {timeout_s:g} s")
    except OSError as exc:
        return Trial(False, f"the model could not be tried: {exc.strerror or exc}")
    if child.returncode < 0:
        return Trial(False, f"the model crashes the runtime ({_signal_name(-child.returncode)})")
    return _parse(child.stdout) or Trial(False, f"the model could not be tried: {_last_line(child.stderr)}")


def _parse(output: bytes) -> Trial | None:
    try:
        return Trial(**json.loads(output.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def main(argv: Sequence[str]) -> int:
    """The child: one line of JSON on standard output, whatever happens short of a signal."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here: no core file on the card
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    shape = tuple(int(extent) for extent in argv[0].split("x"))
    model, started = sys.stdin.buffer.read(), time.perf_counter()
    try:
        network = Network(model, shape, int(argv[1]), threads=int(argv[2]))
        loaded = time.perf_counter()
        probabilities = network.run(np.zeros(shape, np.float32))
        finished = time.perf_counter()
    except (PredictionError, MemoryError) as exc:
        trial = {"ran": False, "reason": str(exc) or "there is not enough memory"}
    else:
        finite = bool(np.isfinite(probabilities).all())
        trial = {
            "ran": finite,
            "reason": "" if finite else "it answers with values that are not finite",
            "load_ms": 1e3 * (loaded - started),
            "first_run_ms": 1e3 * (finished - loaded),
            "peak_rss_mb": _peak_rss_mb(),
        }
    print(json.dumps(trial))
    return 0


def _peak_rss_mb() -> float | None:
    """As `edge_client.health.peak_rss_mb`, without psutil: this process is measured by what it loads."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
