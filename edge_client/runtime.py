"""The TFLite runtime, whichever of the two this machine has.

`ai-edge-litert` on 64-bit machines, `tflite-runtime` 2.14 on 32-bit Arm; ``BRAMBLE_RUNTIME`` names one
where both are installed. Nothing else in the edge client imports either.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from compression.errors import BrambleError

RUNTIMES = {  # distribution: module that holds Interpreter; in order of preference
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


class RuntimeMissingError(BrambleError, ImportError):
    """No TFLite runtime can be imported, or not the one that was asked for."""


@lru_cache(maxsize=1)
def _load() -> tuple[str, ModuleType]:
    wanted = os.environ.get("BRAMBLE_RUNTIME")
    if wanted and wanted not in RUNTIMES:
        raise RuntimeMissingError(f"BRAMBLE_RUNTIME={wanted!r} is not one of {', '.join(RUNTIMES)}")
    for name, module in RUNTIMES.items():
        if wanted not in (None, "", name):
            continue
        try:
            return name, importlib.import_module(module)
        except ImportError as exc:
            reason = exc
    raise RuntimeMissingError(
        f"no TFLite runtime: pip install 'bramble[edge]' brings one for this machine ({reason})"
    ) from reason


def runtime_name() -> str:
    """Distribution name of the runtime in use."""
    return _load()[0]


def runtime_version() -> str:
    """Version of the runtime in use."""
    return version(runtime_name())


def make_interpreter(
    model: bytes,
    *,
    threads: int = 1,
    keep_tensors: bool = False,
    xnnpack: bool = True,
    exact: bool = False,
    batch: int | None = None,
) -> Any:
    """An interpreter with its tensors allocated.

    Args:
        model: the file.
        threads: for its arithmetic.
        keep_tensors: those between the ops can be read too.
        xnnpack: False for the plain kernels, to compare with.
        exact: a file that computes in integers answers to the bit as on the other runtime: by the plain
            kernels, since XNNPACK rounds differently and tflite-runtime 2.14 does not use it for integers.
        batch: examples at a time where the file leaves that open or says 1.

    A signature runner that is taken before ``allocate_tensors()`` runs without XNNPACK on
    tflite-runtime 2.14, 3.6 times slower; so allocation comes first, always, here.

    Raises:
        ValueError, RuntimeError: the bytes are not a model this runtime can run.
    """
    module = _load()[1]
    kept: dict[str, Any] = {"experimental_preserve_all_tensors": True} if keep_tensors else {}
    plain = {"experimental_op_resolver_type": module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    with _silenced(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*preserve_all_tensors", category=UserWarning)
        interpreter = module.Interpreter(
            model_content=model, num_threads=threads, **kept, **({} if xnnpack and not exact else plain)
        )
        if exact and xnnpack and not _computes_in_integers(interpreter):  # costs 0.1 ms: nothing is allocated
            interpreter = module.Interpreter(model_content=model, num_threads=threads, **kept)
        for detail in interpreter.get_input_details() if batch else ():
            interpreter.resize_tensor_input(detail["index"], [batch, *detail["shape"][1:]])
        interpreter.allocate_tensors()
    return interpreter


def _computes_in_integers(interpreter: Any) -> bool:
    """Whether biases are whole numbers with a scale; with int8 weights alone they are floating point."""
    return any(
        np.dtype(detail["dtype"]) == np.int32 and detail["quantization_parameters"]["scales"].size
        for detail in interpreter.get_tensor_details()
    )


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the runtime's C++ greeting off standard error; what goes wrong arrives as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
