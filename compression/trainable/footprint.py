"""How much memory a runtime takes for a graph: its own arena, and XNNPACK's workspace.

A runtime hands what XNNPACK can compute to it in parts, each as large as the dependencies allow, and runs
each part as one op. So the order of the ops is not the file's: all that XNNPACK can do now, then all that it
cannot, and so on. What lives only within a part is in XNNPACK's workspace, which the parts share; everything
else is in the arena, and what goes in or out of a part lives while all of it runs.

Which ops XNNPACK takes was found by giving each alone to both runtimes and looking for a delegate (x86_64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from compression.trainable.packing import Life, packed_bytes
from compression.trainable.schedule import OPS, Work, graph_work, tensor_bytes

RUNTIMES = ("ai-edge-litert", "tflite-runtime")
# Kept by the runtime: ops without weights of their own in the file, and those that XNNPACK lacks.
KEPT = frozenset(
    {
        *(OPS.ADD_N, OPS.BROADCAST_TO, OPS.CAST, OPS.CONV_2D, OPS.DEPTHWISE_CONV_2D, OPS.EQUAL, OPS.FILL),
        *(OPS.FULLY_CONNECTED, OPS.GREATER, OPS.GREATER_EQUAL, OPS.LESS, OPS.LOG_SOFTMAX, OPS.REDUCE_MAX),
        *(OPS.REDUCE_MIN, OPS.REVERSE_V2, OPS.ROUND, OPS.SHAPE, OPS.SIGN, OPS.SPLIT_V, OPS.TILE),
        *(OPS.TRANSPOSE_CONV, OPS.VAR_HANDLE, OPS.READ_VARIABLE, OPS.ASSIGN_VARIABLE),
    }
)
KEPT_BY_TFLITE_RUNTIME = frozenset({OPS.BATCH_MATMUL, OPS.EXP, OPS.LOG, OPS.RSQRT})
TILE_COLUMNS = 32  # to which XNNPACK fills up the second matrix of a product, on x86_64


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one graph's tensors."""

    arena: int
    workspace: int

    @property
    def total(self) -> int:
        """Both."""
        return self.arena + self.workspace


def footprint(model: Any, graph: Any, runtime: str) -> Footprint:
    """What a runtime takes for a subgraph of a TFLite file (an object of `flatbuffer_utils`)."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    work = graph_work(graph, codes)
    taken = [_delegated(model, graph, op, codes[op.opcodeIndex], runtime) for op in graph.operators]
    units = _units(work, taken)
    unit_of = {op: place for place, unit in enumerate(units) for op in unit}
    first = {tensor: unit_of[op] for op, tensors in enumerate(work.writes) for tensor in tensors}
    last = dict(first)
    for op, tensors in enumerate(work.reads):
        last |= {tensor: max(last.get(tensor, 0), unit_of[op]) for tensor in tensors}
    inside = {
        t for t, unit in first.items() if t not in work.kept and last[t] == unit and taken[units[unit][0]]
    }
    lives = [Life(work.sizes[tensor], 0, len(units)) for tensor in work.kept]
    lives += [Life(work.sizes[t], first[t], last[t]) for t in first if t not in inside | work.kept]
    for place, unit in enumerate(units):
        if not taken[unit[0]]:
            op = graph.operators[unit[0]]
            lives.append(Life(work.scratch[unit[0]] + _transposed(graph, op, codes), place, place))
    spaces = [_workspace(graph, work, unit, inside, codes) for unit in units if taken[unit[0]]]
    return Footprint(packed_bytes(lives), max(spaces, default=0))


def _units(work: Work, taken: Sequence[bool]) -> list[list[int]]:
    """What runs as one op, in turn: TFLite's `PartitionGraphIntoIndependentNodeSubsets`."""
    units: list[list[int]] = []
    done: set[int] = set()
    while len(done) < len(taken):
        subset = _next_subset(work, taken, done)
        units += [subset] if taken[subset[0]] else [[op] for op in subset]
    return units


def _next_subset(work: Work, taken: Sequence[bool], done: set[int]) -> list[int]:
    """All that can run now and goes where the first of them goes; they are added to `done`."""
    subset: list[int] = []
    grew = True
    while grew:
        grew = False
        for op in range(len(taken)):
            if op in done or not work.after[op] <= done:
                continue
            if not subset or taken[op] == taken[subset[0]]:
                subset.append(op)
                done.add(op)
                grew = True
    return subset


def _workspace(graph: Any, work: Work, unit: Sequence[int], inside: set[int], codes: Sequence[int]) -> int:
    """What a part's own tensors take, and the second matrices of products, which are packed anew."""
    first = {t: place for place, op in enumerate(unit) for t in work.writes[op] & inside}
    last = dict(first)
    lives = []
    for place, op in enumerate(unit):
        last |= dict.fromkeys(work.reads[op] & first.keys(), place)
        lives.append(Life(_packed(graph, graph.operators[op], codes), place, place))
    return packed_bytes([*lives, *(Life(work.sizes[t], first[t], last[t]) for t in first)])


def _delegated(model: Any, graph: Any, op: Any, code: int, runtime: str) -> bool:
    if code in KEPT or any(graph.tensors[int(t)].type != schema.TensorType.FLOAT32 for t in op.outputs):
        return False
    if code == OPS.STRIDED_SLICE:
        return not op.builtinOptions.shrinkAxisMask and set(_integers(model, graph, op.inputs[3])) == {1}
    if runtime == "ai-edge-litert":
        return True
    if code in (OPS.SUM, OPS.MEAN):
        rank = len(graph.tensors[int(op.inputs[0])].shape)
        return rank == 4 and sorted(_integers(model, graph, op.inputs[1])) == [1, 2]
    return code not in KEPT_BY_TFLITE_RUNTIME


def _integers(model: Any, graph: Any, tensor: int) -> list[int]:
    data = model.buffers[graph.tensors[int(tensor)].buffer].data
    return [] if data is None else np.frombuffer(bytes(data), np.int32).tolist()


def _transposed(graph: Any, op: Any, codes: Sequence[int]) -> int:
    """TFLite's own product wants the first matrix by rows and the second by columns."""
    if codes[op.opcodeIndex] != OPS.BATCH_MATMUL:
        return 0
    left, right = (tensor_bytes(graph.tensors[int(tensor)]) for tensor in op.inputs)
    return (left if op.builtinOptions.adjX else 0) + (0 if op.builtinOptions.adjY else right)


def _packed(graph: Any, op: Any, codes: Sequence[int]) -> int:
    """XNNPACK's product packs the second matrix, with a row for a bias."""
    if codes[op.opcodeIndex] != OPS.BATCH_MATMUL:
        return 0
    *batch, rows, columns = (int(extent) for extent in graph.tensors[int(op.inputs[1])].shape)
    if op.builtinOptions.adjY:
        rows, columns = columns, rows
    return 4 * math.prod(batch) * (rows + 1) * -(-columns // TILE_COLUMNS) * TILE_COLUMNS
