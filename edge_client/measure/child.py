"""Child of the agent: measures one model. ``python -m edge_client.measure.child MODEL PLAN SECONDS``.

PLAN is a `MeasurePlan` as canonical JSON. The last line of its output is a `Measurement` as canonical JSON,
or ``{"error": ..., "refused": ...}``. Whatever the model does to the runtime, the agent goes on; and should
the agent be killed, the child and its own children still end by the limits that they set themselves.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from compression.records import dumps, loads
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.measure.latency import measure_model
from edge_client.wire.measurement import MeasurePlan

MAX_PLAN_BYTES = 1 << 16


def main(argv: Sequence[str]) -> int:
    """Print one line, whatever happens short of a signal."""
    path, limit_s = Path(argv[0]), float(argv[2])
    plan = loads(MeasurePlan, argv[1].encode(), max_bytes=MAX_PLAN_BYTES)
    _limit(limit_s)
    try:
        answer = dumps(measure_model(path, plan, timeout_s=limit_s)).decode()
    except (MeasureError, MemoryError, ImportError, OSError) as exc:
        refused = isinstance(exc, UnrunnableError)
        answer = json.dumps({"error": str(exc) or "there is not enough memory", "refused": refused})
    print(answer)
    return 0


def _limit(seconds: float) -> None:
    """No core file, the first to go when memory runs out, an end by the clock whoever is left to watch."""
    signal.alarm(math.ceil(seconds))  # not caught: it ends the process in the middle of an op, too
    processor_s = math.ceil(seconds) * (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s))  # of cold starts as well
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
