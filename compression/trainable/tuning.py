"""The lowering of each convolution by measurement: a table that the compiler takes.

The computations that a model's training program holds are written down while it is traced, each is converted
alone in every lowering, and all are timed in turns by a process with the runtime they are meant for.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import tensorflow as tf

from compression.time_signatures import installed_runtime
from compression.timing_process import TimingError, timed_by
from compression.trainable.convert import convert
from compression.trainable.errors import TrainableError
from compression.trainable.lowerings import choosing, convolve, input_gradient, kernel_gradient
from compression.trainable.rules import Chooser, HotOp, Lowering, by_rule, lowerings_of, rule_for
from compression.trainable.shapes import grid

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TunedTable:
    """Milliseconds by computation and lowering, measured with one runtime on one kind of machine.

    Called, it chooses: the fastest, or by the runtime's rule what was not measured.
    """

    runtime: str
    machine: str
    ms: Mapping[str, Mapping[str, float]]

    def __call__(self, op: HotOp) -> Lowering:
        measured, possible = self.ms.get(op.key, {}), lowerings_of(op)
        if not set(possible) <= set(measured):
            return rule_for(self.runtime)(op)
        return min(possible, key=lambda name: measured[name])

    def __str__(self) -> str:
        return f"measured with {self.runtime} on {self.machine}"

    def merged(self, newer: TunedTable) -> TunedTable:
        """Both tables' computations; of those in both, the newer measurement."""
        if (self.runtime, self.machine) != (newer.runtime, newer.machine):
            raise TrainableError(
                f"a table of {newer.runtime} on {newer.machine} cannot be added to one of {self.runtime} on "
                f"{self.machine}: give another file"
            )
        return TunedTable(self.runtime, self.machine, {**self.ms, **newer.ms})


def table_path(runtime: str, machine: str) -> Path:
    """Where a runtime's table is kept unless the user says otherwise: in the XDG cache.

    The version is part of the name: another one's kernels may be faster or slower.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "bramble" / f"lowerings-{runtime.replace(' ', '-')}-{machine}.json"


def cached_table() -> TunedTable | None:
    """The table for this interpreter's runtime on this machine, if `tune` has made one.

    Raises:
        TrainableError: the file is damaged.
    """
    runtime = installed_runtime()
    if runtime is None:
        return None
    path = table_path(runtime, platform.machine())
    return read_table(path) if path.exists() else None


def default_chooser() -> Chooser:
    """For this interpreter's runtime: the table that `tune` made here, or the rule.

    Raises:
        TrainableError: the table is damaged.
    """
    return cached_table() or rule_for(installed_runtime())


def write_table(path: Path, table: TunedTable) -> None:
    """As JSON, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"format": FORMAT, "runtime": table.runtime, "machine": table.machine, "ms": table.ms}
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")
    temporary.replace(path)


def read_table(path: Path) -> TunedTable:
    """Inverse of `write_table`.

    Raises:
        TrainableError: it is not such a file.
        OSError: it cannot be read.
    """
    try:
        plain = json.loads(path.read_bytes())
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']!r}")
        ms = {
            str(key): {name: float(times[name]) for name in get_args(Lowering) if name in times}
            for key, times in plain["ms"].items()
        }
        if not all("conv" in times for times in ms.values()):
            raise ValueError("a computation lacks a time")
        return TunedTable(str(plain["runtime"]), str(plain["machine"]), ms)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise TrainableError(
            f"{path} is not a table of lowerings ({exc}): remove it, or make one with `tune`"
        ) from exc


def recording(found: dict[str, HotOp]) -> Callable[[HotOp], Lowering]:
    """A chooser that follows the rule and writes down what it was asked."""

    def choose(op: HotOp) -> Lowering:
        found[op.key] = op
        return by_rule(op)

    return choose


def measure(ops: Iterable[HotOp], *, python: str | None = None) -> TunedTable:
    """Time each computation in each lowering, by the runtime that an interpreter has.

    Args:
        ops: what to measure.
        python: a Python with NumPy and a TFLite runtime; None is this one.

    Raises:
        TrainableError: the process fails.
    """
    work = list(ops)
    if not work:
        raise TrainableError("the model has no convolution: there is nothing to tune")
    functions = {
        f"{lowering}_{index}": _alone(op, lowering)
        for index, op in enumerate(work)
        for lowering in lowerings_of(op)
    }
    with tempfile.TemporaryDirectory(prefix="bramble-tune-") as directory:
        file = Path(directory) / "ops.tflite"
        file.write_bytes(convert(tf.Module(), functions))
        try:
            answer = timed_by("compression.time_signatures", [str(file)], python=python)
        except TimingError as exc:
            raise TrainableError(str(exc)) from exc
    ms: dict[str, dict[str, float]] = {
        op.key: {str(lowering): answer["ms"][f"{lowering}_{index}"] for lowering in lowerings_of(op)}
        for index, op in enumerate(work)
    }
    return TunedTable(answer["runtime"], answer["machine"], ms)


def _alone(op: HotOp, lowering: Lowering) -> Any:
    """A function of nothing but this computation, lowered so."""

    over = grid(tf.zeros(op.picture), (op.kernel[0], op.kernel[1]), op.strides, "VALID")
    outputs = (op.picture[0], over.rows.outputs, over.columns.outputs, op.kernel[3])

    def compute(x: Any, other: Any) -> dict[str, Any]:
        with choosing(lambda _op: lowering):
            if op.kind == "convolution":
                return {"y": convolve(x, other, over)}
            if op.kind == "input_gradient":
                return {"y": input_gradient(x, other, op.picture, over)}
            return {"y": kernel_gradient(x, other, list(op.kernel), over)}

    x = outputs if op.kind == "input_gradient" else op.picture
    other = outputs if op.kind == "kernel_gradient" else op.kernel
    return tf.function(compute, autograph=False).get_concrete_function(
        tf.TensorSpec(x, tf.float32, name="x"), tf.TensorSpec(other, tf.float32, name="other")
    )
