"""Processor time of each signature of a TFLite file. Needs NumPy and one TFLite runtime, as a device has.

``python -m compression.time_signatures FILE`` prints JSON: runtime, machine, milliseconds by signature.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from types import ModuleType

import numpy as np

RUNTIMES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
WARM_UP = 3
ROUNDS = 15  # the signatures take turns, so that a busy moment of the machine falls on all of them


def main(argv: Sequence[str]) -> int:
    """Time every signature on random inputs."""
    name, module = load_runtime()
    interpreter = module.Interpreter(model_path=argv[0], num_threads=1)
    interpreter.allocate_tensors()  # before the runners, or they run without XNNPACK
    rng = np.random.default_rng(1)
    calls = {}
    for signature in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(signature)
        details = runner.get_input_details()
        shapes = {key: tuple(value["shape"]) for key, value in details.items()}
        inputs = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
        calls[signature] = (runner, inputs)
    times: dict[str, list[float]] = {signature: [] for signature in calls}
    for turn in range(WARM_UP + ROUNDS):
        for signature, (runner, inputs) in calls.items():
            started = time.process_time()  # of one thread: what else the machine does is not counted
            runner(**inputs)
            if turn >= WARM_UP:
                times[signature].append(1e3 * (time.process_time() - started))
    print(
        json.dumps(
            {
                "runtime": f"{name} {version(name)}",
                "machine": platform.machine(),
                "ms": {signature: median(values) for signature, values in times.items()},
            }
        )
    )
    return 0


def installed_runtime() -> str | None:
    """Name and version of the runtime that `main` would time, without loading it."""
    for name in _wanted():
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def _wanted() -> list[str]:
    """As BRAMBLE_RUNTIME says, else in order of preference."""
    return [name for name in RUNTIMES if os.environ.get("BRAMBLE_RUNTIME") in (None, "", name)]


def load_runtime() -> tuple[str, ModuleType]:
    """The one that BRAMBLE_RUNTIME names, else the first there is; its name and its module."""
    for name in _wanted():
        try:
            return name, importlib.import_module(RUNTIMES[name])
        except ImportError:
            continue
    raise SystemExit(f"no TFLite runtime here: pip install {' or '.join(RUNTIMES)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
