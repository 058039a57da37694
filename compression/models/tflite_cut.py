"""One op of a TFLite file as a file of its own, to be run alone.

The bytes are patched rather than written anew, so that no schema is needed: the graph's list of ops is made
shorter, its lists of inputs and outputs are replaced by new ones behind the end of the file, and all else,
the weights too, stays where it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from compression.models.errors import TFLiteFileError
from compression.models.tflite_file import FileGraph, FileOp, FileTensor, Table, read_tflite

SUBGRAPHS, SIGNATURES, SIGNATURE_KEY, SIGNATURE_GRAPH = 2, 7, 2, 4  # fields of schema.fbs, by number
GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_OPS, OPTIONS = 1, 2, 3, 4
ALONE = frozenset({"float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"})
NOT_ALONE = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "VAR_HANDLE"})


@dataclass(frozen=True, slots=True)
class CutOp:
    """One op, and how many others of the graph are just like it.

    Attributes:
        op: its name.
        what: name and shapes, inputs before outputs.
        count: how many there are.
        file: a TFLite file that does this and nothing else; empty where it cannot be cut out.
        why_not: the reason then.
    """

    op: str
    what: str
    count: int
    file: bytes
    why_not: str = ""


def cut_ops(data: bytes, signature: str | None = None) -> tuple[CutOp, ...]:
    """The ops of a graph in the order in which they run, equal ones once.

    What only unpacks constants is left out: a runtime does it once, when it loads the file, and so do the
    files that need the unpacked constants.

    Args:
        data: the file.
        signature: of the graph that has this name; None for the first graph.

    Raises:
        TFLiteFileError: the file is damaged, or has no such signature.
    """
    file = read_tflite(data)
    try:
        number = 0 if signature is None else _graph_of(data, signature)
        return _cut_graph(data, number, file.graphs[number])
    except (struct.error, ValueError, LookupError) as exc:
        raise TFLiteFileError(f"the ops of the TFLite file cannot be cut out: {exc}") from exc


def _cut_graph(data: bytes, number: int, graph: FileGraph) -> tuple[CutOp, ...]:
    unpacking = _unpacking(graph)
    tables = _root(data).tables(SUBGRAPHS)[number].tables(GRAPH_OPS)
    found: dict[tuple[str, bytes], list[int]] = {}
    for place, op in enumerate(graph.ops):
        if place not in unpacking:
            key = (_what(graph, op), tables[place].inline(OPTIONS))  # strides and the like
            found.setdefault(key, []).append(place)
    return tuple(_cut(data, number, graph, places, unpacking) for places in found.values())


def _cut(data: bytes, number: int, graph: FileGraph, places: Sequence[int], unpacking: set[int]) -> CutOp:
    op = graph.ops[places[0]]
    what, count = _what(graph, op), len(places)
    before = _unpackers(graph, op, unpacking)
    made = {index for place in before for index in graph.ops[place].outputs}
    inputs = [i for i in _computed(graph, op) if i not in made]
    why_not = _why_not(graph, op, inputs)
    file = b"" if why_not else _patched(data, number, [*before, places[0]], inputs, op.outputs)
    return CutOp(op.name, what, count, file, why_not)


def _why_not(graph: FileGraph, op: FileOp, inputs: Sequence[int]) -> str:
    if op.name in NOT_ALONE:
        return "it runs other graphs or holds state"
    odd = {graph.tensors[i].type for i in (*inputs, *op.outputs)} - ALONE
    return f"it works on {', '.join(sorted(odd))}" if odd else ""


def _computed(graph: FileGraph, op: FileOp) -> list[int]:
    """Inputs that neither stand in the file nor are the op's own memory, each once."""
    return [
        index
        for index in dict.fromkeys(op.inputs)
        if index >= 0 and not len(graph.tensors[index].data) and not graph.tensors[index].is_variable
    ]


def _unpacking(graph: FileGraph) -> set[int]:
    """Ops that work on nothing but constants: float16 weights as float32, sparse ones as dense."""
    constant: set[int] = set()
    places = set()
    for place, op in enumerate(graph.ops):
        if op.inputs and all(index in constant for index in _computed(graph, op)):
            places.add(place)
            constant.update(op.outputs)
    return places


def _unpackers(graph: FileGraph, op: FileOp, unpacking: set[int]) -> list[int]:
    """Those that this op needs, in the order in which they run."""
    wanted, needed = set(_computed(graph, op)), []
    for place in sorted(unpacking, reverse=True):
        if wanted & set(graph.ops[place].outputs):
            needed.append(place)
            wanted |= set(_computed(graph, graph.ops[place]))
    return needed[::-1]


def _what(graph: FileGraph, op: FileOp) -> str:
    def shapes(tensors: Sequence[int]) -> str:
        return ", ".join(_shape(graph.tensors[index]) for index in tensors if index >= 0)

    return f"{op.name} {shapes(op.inputs)} -> {shapes(op.outputs)}"


def _shape(tensor: FileTensor) -> str:
    extents = "x".join(str(abs(extent)) for extent in tensor.shape) or "1"
    return extents if tensor.type == "float32" else f"{extents} {tensor.type}"


# ---- the bytes ----


def signature_names(data: bytes) -> tuple[str, ...]:
    """Of a file that is whole."""
    return tuple(each.text(SIGNATURE_KEY) for each in _root(data).tables(SIGNATURES))


def _graph_of(data: bytes, signature: str) -> int:
    for each in _root(data).tables(SIGNATURES):
        if each.text(SIGNATURE_KEY) == signature:
            return each.scalar(SIGNATURE_GRAPH, "<I")
    raise ValueError(f"there is no signature {signature!r}, but {', '.join(signature_names(data)) or 'none'}")


def _patched(
    data: bytes, number: int, places: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    model, patched = _root(data), bytearray(data)
    graph = model.tables(SUBGRAPHS)[number]
    _point(patched, model.vector(SUBGRAPHS), [graph.at])
    _point(patched, graph.vector(GRAPH_OPS), [graph.tables(GRAPH_OPS)[place].at for place in places])
    if signatures := model.vector(SIGNATURES):
        struct.pack_into("<I", patched, signatures, 0)
    for field, tensors in ((GRAPH_INPUTS, inputs), (GRAPH_OUTPUTS, outputs)):
        where = graph.field(field)
        if not where:
            raise ValueError("the graph has no list of inputs or outputs")
        patched += bytes(-len(patched) % 4)
        struct.pack_into("<I", patched, where, len(patched) - where)
        patched += struct.pack(f"<I{len(tensors)}i", len(tensors), *tensors)
    return bytes(patched)


def _point(patched: bytearray, vector: int, tables: Sequence[int]) -> None:
    """Make a list of tables one of these tables; flatbuffers put a list before what it refers to."""
    struct.pack_into("<I", patched, vector, len(tables))
    for slot, table in enumerate(tables):
        at = vector + 4 + 4 * slot
        struct.pack_into("<I", patched, at, table - at)


def _root(data: bytes) -> Table:
    return Table.root(memoryview(data))
