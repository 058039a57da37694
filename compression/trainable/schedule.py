"""The order of a program's ops that needs the least memory, and how much it needs.

Finding the best order is NP-complete; two greedy ones are tried, forwards and backwards in time, besides the
converter's own, and the one with the lowest peak wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema

OPS = schema.BuiltinOperator
ELEMENT_BYTES = {
    schema.TensorType.FLOAT32: 4,
    schema.TensorType.INT32: 4,
    schema.TensorType.BOOL: 1,
    schema.TensorType.INT64: 8,
    schema.TensorType.INT8: 1,
    schema.TensorType.UINT8: 1,
}


@dataclass(frozen=True, slots=True)
class Work:
    """The ops of one subgraph as a graph of dependencies.

    Attributes:
        reads, writes: tensors of each op, constants left out.
        after: ops that must come before each op.
        sizes: bytes by tensor.
        scratch: bytes that each op takes while it runs.
    """

    reads: tuple[frozenset[int], ...]
    writes: tuple[frozenset[int], ...]
    after: tuple[frozenset[int], ...]
    sizes: dict[int, int]
    scratch: tuple[int, ...]
    kept: frozenset[int]  # the subgraph's own inputs and outputs, alive throughout


def schedule(graph: Any, codes: Sequence[int]) -> list[Any]:
    """The subgraph's ops in the best order found."""
    operators = list(graph.operators)
    work = graph_work(graph, codes)
    orders = [_forwards(work), _backwards(work)]
    given = list(range(len(operators)))
    if all(max(work.after[index], default=-1) < index for index in given):
        orders.append(given)
    best = min(orders, key=lambda order: peak_bytes(work, order))
    return [operators[index] for index in best]


def arena_bytes(graph: Any, codes: Sequence[int]) -> int:
    """Peak of the tensors alive at a time, in the order that the ops have."""
    return peak_bytes(graph_work(graph, codes), range(len(graph.operators)))


def peak_bytes(work: Work, order: Sequence[int]) -> int:
    """The largest sum of live tensors and scratch memory at any op."""
    last_use = {tensor: place for place, index in enumerate(order) for tensor in work.reads[index]}
    live = sum(work.sizes[tensor] for tensor in work.kept)
    peak = live
    for place, index in enumerate(order):
        live += sum(work.sizes[tensor] for tensor in work.writes[index] - work.kept)
        peak = max(peak, live + work.scratch[index])
        ended = {tensor for tensor in work.reads[index] if last_use[tensor] == place}
        ended |= {tensor for tensor in work.writes[index] if tensor not in last_use}
        live -= sum(work.sizes[tensor] for tensor in ended - work.kept)
    return peak


def graph_work(graph: Any, codes: Sequence[int]) -> Work:
    """The dependencies and sizes of a subgraph's ops."""
    operators = list(graph.operators)
    kept = frozenset(int(index) for index in (*graph.inputs, *graph.outputs))
    made = {int(tensor): index for index, op in enumerate(operators) for tensor in op.outputs}
    reads, writes, after = [], [], []
    touched: list[tuple[int, bool]] = []  # ops on variables so far, and whether they wrote
    for index, op in enumerate(operators):
        code = codes[op.opcodeIndex]
        inputs = {int(tensor) for tensor in op.inputs if int(tensor) >= 0}
        reads.append(frozenset(tensor for tensor in inputs if tensor in made or tensor in kept))
        writes.append(frozenset(int(tensor) for tensor in op.outputs))
        before = {made[tensor] for tensor in inputs if tensor in made}
        if code in (OPS.READ_VARIABLE, OPS.ASSIGN_VARIABLE):
            wrote = code == OPS.ASSIGN_VARIABLE
            before |= {other for other, other_wrote in touched if wrote or other_wrote}
            touched.append((index, wrote))
        after.append(frozenset(before))
    sizes = {index: tensor_bytes(tensor) for index, tensor in enumerate(graph.tensors)}
    scratch = tuple(_scratch(graph, op, codes[op.opcodeIndex]) for op in operators)
    return Work(tuple(reads), tuple(writes), tuple(after), sizes, scratch, kept)


def tensor_bytes(tensor: Any) -> int:
    """What it takes, by shape and type."""
    shape = [] if tensor.shape is None else [int(extent) for extent in tensor.shape]
    return math.prod(shape) * ELEMENT_BYTES.get(tensor.type, 0)


def _scratch(graph: Any, op: Any, code: int) -> int:
    """What a convolution unrolls its picture into (im2col)."""
    if code != OPS.CONV_2D:
        return 0
    kernel = graph.tensors[int(op.inputs[1])].shape
    outputs = graph.tensors[int(op.outputs[0])].shape
    taps = int(kernel[1]) * int(kernel[2])
    return 0 if taps == 1 else 4 * taps * int(kernel[3]) * math.prod(int(n) for n in outputs[:3])


def _forwards(work: Work) -> list[int]:
    """Always the op that adds the least to what is alive."""
    users = _users(work)
    missing = [len(before) for before in work.after]
    left = {tensor: len(readers) for tensor, readers in _readers(work).items()}
    ready = {index for index, count in enumerate(missing) if not count}
    order: list[int] = []

    def growth(index: int) -> tuple[int, int]:
        freed = (tensor for tensor in work.reads[index] - work.kept if left[tensor] == 1)
        made = sum(work.sizes[tensor] for tensor in work.writes[index] - work.kept)
        return made - sum(work.sizes[tensor] for tensor in freed), index

    while ready:
        index = min(ready, key=growth)
        ready.remove(index)
        order.append(index)
        for tensor in work.reads[index]:
            left[tensor] -= 1
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                ready.add(user)
    return order


def _backwards(work: Work) -> list[int]:
    """From the end: always the op whose inputs, as far as nothing later wants them, weigh the least."""
    missing = [len(users) for users in _users(work)]
    wanted = set(work.kept)
    ready = {index for index, count in enumerate(missing) if not count}
    order: list[int] = []

    def growth(index: int) -> tuple[int, int]:
        new = sum(work.sizes[tensor] for tensor in work.reads[index] - wanted)
        gone = sum(work.sizes[tensor] for tensor in work.writes[index] - work.kept if tensor in wanted)
        return new - gone, -index

    while ready:
        index = min(ready, key=growth)
        ready.remove(index)
        order.append(index)
        wanted = (wanted - (work.writes[index] - work.kept)) | work.reads[index]
        for earlier in work.after[index]:
            missing[earlier] -= 1
            if not missing[earlier]:
                ready.add(earlier)
    return order[::-1]


def _users(work: Work) -> list[set[int]]:
    users: list[set[int]] = [set() for _ in work.after]
    for index, before in enumerate(work.after):
        for earlier in before:
            users[earlier].add(index)
    return users


def _readers(work: Work) -> dict[int, set[int]]:
    readers: dict[int, set[int]] = {}
    for index, tensors in enumerate(work.reads):
        for tensor in tensors:
            readers.setdefault(tensor, set()).add(index)
    return readers
