"""The process that times the ops of a TFLite file. Needs NumPy and one TFLite runtime, as a device has.

``python -m compression.op_timer FILE THREADS XNNPACK [SIGNATURE]`` prints JSON: runtime, machine, the whole
graph's milliseconds, and those of each op, in the order of `compression.models.tflite_cut.cut_ops`.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from compression.models.tflite_cut import cut_ops
from compression.time_signatures import load_runtime

TURNS = 5  # all ops in turn, so that a busy moment of the machine is nobody's alone
WARM_UP = 3
TURN_S = 0.02  # of timing an op in each turn; at least `MIN_RUNS` runs
MIN_RUNS = 5
GROUP_S = 1e-4  # runs that are shorter are timed several at a time, for the clock is not free
REFUSED = "the runtime does not run it alone"


def main(argv: Sequence[str]) -> int:
    """Time the whole and each op on made-up inputs."""
    data, threads, xnnpack = Path(argv[0]).read_bytes(), int(argv[1]), argv[2] == "on"
    signature = argv[3] if len(argv) > 3 else None
    name, module = load_runtime()

    def interpreter(content: bytes) -> Any:
        return _interpreter(module, content, threads, xnnpack=xnnpack)

    files = [op.file for op in cut_ops(data, signature)]
    if signature is None:
        files.append(data)
    times: list[list[float]] = [[] for _ in files]
    refused: dict[int, str] = {}
    for _ in range(TURNS):
        for place, file in enumerate(files):
            if file and place not in refused:
                try:
                    times[place].append(_milliseconds(_ready(interpreter(file))))
                except (ValueError, RuntimeError) as exc:
                    refused[place] = f"{REFUSED}: {(str(exc).strip().splitlines() or ['?'])[0][:120]}"
    found = [median(samples) if samples else None for samples in times]
    whole = found.pop() if signature is None else None
    answer = {"runtime": f"{name} {version(name)}", "machine": platform.machine(), "whole_ms": whole}
    print(json.dumps(answer | {"ms": found, "refused": refused}))
    return 0


def _interpreter(module: ModuleType, content: bytes, threads: int, *, xnnpack: bool) -> Any:
    plain = {"experimental_op_resolver_type": module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    made = module.Interpreter(model_content=content, num_threads=threads, **({} if xnnpack else plain))
    made.allocate_tensors()
    return made


def _ready(interpreter: Any) -> Callable[[], object]:
    """Its inputs filled: real numbers and bytes with noise, indices and conditions with 0."""
    rng = np.random.default_rng(1)
    for detail in interpreter.get_input_details():
        kind, shape = np.dtype(detail["dtype"]), tuple(detail["shape"])
        noise = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 100, shape)
        noisy = kind.kind == "f" or (kind.kind in "iu" and kind.itemsize < 4)
        interpreter.set_tensor(detail["index"], noise.astype(kind) if noisy else np.zeros(shape, kind))
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


def _milliseconds(run: Callable[[], object]) -> float:
    """Of one run; the median of groups of runs."""
    for _ in range(WARM_UP):
        run()
    group = max(1, math.ceil(GROUP_S / max(_seconds(run, 1), 1e-9)))
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < MIN_RUNS or time.perf_counter() - started < TURN_S:
        samples.append(1e3 * _seconds(run, group) / group)
    return median(samples)


def _seconds(run: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
