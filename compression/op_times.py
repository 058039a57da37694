"""Where a training step's time goes: every op of the program timed alone.

Equal ops are timed once and counted. They take turns, and the copying of inputs and outputs is counted, which
inside the program costs nothing: so the sum is more than the step, and what matters is what stands out.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from compression.spec import TrainableBundle
from compression.text_table import text_table
from compression.trainable.flatbuffer import OP_NAMES, OPS
from compression.trainable.tuning import time_file

STATE = (OPS.VAR_HANDLE, OPS.READ_VARIABLE, OPS.ASSIGN_VARIABLE)


@dataclass(frozen=True, slots=True)
class OpTime:
    """Equal ops of one program.

    Attributes:
        what: name and shapes, inputs before outputs.
        count: how many there are.
        ms: one of them.
    """

    op: str
    what: str
    count: int
    ms: float

    @property
    def total_ms(self) -> float:
        """All of them."""
        return self.count * self.ms


@dataclass(frozen=True, slots=True)
class OpTimes:
    """A program's ops, those that take longest in all first."""

    model: str
    runtime: str
    machine: str
    ops: tuple[OpTime, ...]


def time_ops(bundle: TrainableBundle, *, python: str | None = None) -> OpTimes:
    """Time the ops of a step; those on variables and on integers are left out.

    Args:
        bundle: a compiled model.
        python: a Python with NumPy and a TFLite runtime; None is this one.

    Raises:
        TrainableError: the process that times fails.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(bundle.tflite))
    signatures = {each.signatureKey.decode(): each.subgraphIndex for each in model.signatureDefs}
    graph = model.subgraphs[signatures.get("train", signatures.get("accumulate"))]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    timed = [
        op for op in graph.operators if codes[op.opcodeIndex] not in STATE and _takes_floats(model, graph, op)
    ]
    whats = [_what(graph, op, codes) for op in timed]
    counts, firsts = Counter(whats), dict(zip(reversed(whats), reversed(timed), strict=True))
    alone = _each_alone(model, graph, list(firsts.values()))
    with tempfile.TemporaryDirectory(prefix="bramble-ops-") as directory:
        file = Path(directory) / "ops.tflite"
        file.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(alone)))
        answer = time_file(file, python)
    found = [
        OpTime(what.partition(" ")[0], what, counts[what], answer["ms"][f"op_{place}"])
        for place, what in enumerate(firsts)
    ]
    ordered = tuple(sorted(found, key=lambda each: -each.total_ms))
    return OpTimes(bundle.spec.name, answer["runtime"], answer["machine"], ordered)


def _constant(model: Any, graph: Any, tensor: int) -> bool:
    data = model.buffers[graph.tensors[tensor].buffer].data
    return data is not None and len(data) > 0


def _inputs(model: Any, graph: Any, op: Any) -> list[int]:
    """Those that are computed, each once."""
    found = dict.fromkeys(int(tensor) for tensor in op.inputs if int(tensor) >= 0)
    return [tensor for tensor in found if not _constant(model, graph, tensor)]


def _takes_floats(model: Any, graph: Any, op: Any) -> bool:
    inputs = _inputs(model, graph, op)
    return bool(inputs) and all(graph.tensors[i].type == schema.TensorType.FLOAT32 for i in inputs)


def _what(graph: Any, op: Any, codes: list[int]) -> str:
    def shapes(tensors: Any) -> str:
        extents = (graph.tensors[int(tensor)].shape for tensor in tensors if int(tensor) >= 0)
        return ", ".join("x".join(map(str, shape)) if shape is not None else "1" for shape in extents)

    return f"{OP_NAMES[codes[op.opcodeIndex]]} {shapes(op.inputs)} -> {shapes(op.outputs)}"


def _each_alone(model: Any, graph: Any, ops: list[Any]) -> Any:
    """The model with a subgraph and a signature for each op, and nothing else."""
    alone = copy.copy(model)
    alone.subgraphs, alone.signatureDefs, alone.metadata = [], [], []
    for place, op in enumerate(ops):
        part = schema.SubGraphT()
        used = dict.fromkeys([*(int(i) for i in op.inputs if int(i) >= 0), *(int(i) for i in op.outputs)])
        numbers = {tensor: number for number, tensor in enumerate(used)}
        part.tensors = [graph.tensors[tensor] for tensor in used]
        moved = copy.copy(op)
        moved.inputs = [numbers.get(int(i), -1) for i in op.inputs]
        moved.outputs = [numbers[int(i)] for i in op.outputs]
        part.operators = [moved]
        part.inputs = [numbers[tensor] for tensor in _inputs(model, graph, op)]
        part.outputs = moved.outputs
        alone.subgraphs.append(part)
        alone.signatureDefs.append(_signature(place, part))
    return alone


def _signature(place: int, part: Any) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = f"op_{place}", place
    signature.inputs = [_named(f"in{number}", tensor) for number, tensor in enumerate(part.inputs)]
    signature.outputs = [_named(f"out{number}", tensor) for number, tensor in enumerate(part.outputs)]
    return signature


def _named(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry


def op_times_text(times: OpTimes, *, most: int = 12) -> str:
    """The kinds of ops, then those that take longest."""
    total = sum(op.total_ms for op in times.ops)
    kinds: dict[str, list[OpTime]] = {}
    for op in times.ops:
        kinds.setdefault(op.op, []).append(op)
    ordered = sorted(kinds, key=lambda name: -sum(op.total_ms for op in kinds[name]))
    summed = [
        [
            name,
            str(sum(op.count for op in kinds[name])),
            *_cells(sum(op.total_ms for op in kinds[name]), total),
        ]
        for name in ordered[:most]
    ]
    longest = [[op.what, str(op.count), *_cells(op.total_ms, total)] for op in times.ops[:most]]
    heads = ["", "ops", "all of them", "share"]
    title = f"{times.model}: ops timed alone with {times.runtime} on {times.machine}, {total:.1f} ms in all"
    return f"{title}\n\n{text_table(heads, summed)}\n\n{text_table(heads, longest)}"


def _cells(ms: float, total: float) -> list[str]:
    return [f"{ms:.2f} ms", f"{100 * ms / total:.0f} %"]
