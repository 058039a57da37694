"""A device's part in calibrating an int8 release: the ranges of the activations on its own examples.

The program comes like any blob, signed for by its digest in the task. It runs one example at a time and all
its activations are kept while it does, so a device that has too little memory for that says so beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from compression.records import dumps
from compression.spec import ModelSpec
from edge_client.data import LocalData, batches
from edge_client.health import MEGABYTE, free_memory_mb
from edge_client.inference.predictor import FloatArray
from edge_client.inference.ranges import measure_ranges
from edge_client.versions import TaskError
from edge_client.wire.ranges import RangesPlan

SPARE_MB = 16.0  # that stay free: the runtime's own, and the rest of the system's


def ranges_report(
    program: bytes,
    plan: RangesPlan,
    data: LocalData,
    spec: ModelSpec,
    *,
    threads: int = 1,
    before_each: Callable[[], None] = lambda: None,
) -> bytes:
    """The payload of a "calibrate" task's result: `ActivationRanges` as canonical JSON.

    Args:
        program: the file of the plan.
        before_each: called before each batch of examples; what it raises ends the work.

    Raises:
        TaskError: too little memory for all activations at once.
        PredictionError: the file does not run here, or there is no example.
    """
    check_memory(plan, free_memory_mb())
    found = measure_ranges(
        program,
        plan.tensors,
        _shown(data, spec, plan.examples, before_each),
        clip_percent=plan.clip_percent,
        noise=plan.noise,
        threads=threads,
    )
    return dumps(found)


def check_memory(plan: RangesPlan, free_mb: float) -> None:
    """Raise `TaskError` if a program with all its activations does not fit what is free, in MB."""
    needed = (plan.program.size + plan.kept_bytes) / MEGABYTE + SPARE_MB
    if free_mb < needed:
        raise TaskError(
            f"measuring ranges needs {needed:.0f} MB of memory, {free_mb:.0f} MB are free: it goes on "
            "without this device's ranges"
        )


def _shown(
    data: LocalData, spec: ModelSpec, most: int, before_each: Callable[[], None]
) -> Iterator[FloatArray]:
    """At most so many training examples, spread over all of them, preprocessed and not augmented."""
    chosen = data.train_index
    if len(chosen) > most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(int)]
    for batch in batches(data, chosen, spec):
        before_each()
        yield from batch.inputs[batch.weights > 0]
