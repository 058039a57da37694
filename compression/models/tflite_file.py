"""What a TFLite file says about itself: its ops, its tensors and their types. Read, not run.

A flatbuffer is a graph of offsets; this reads the few tables needed and nothing else, in pure Python, so
that it works on a device whose runtime carries no schema, and a file that would crash a runtime natively is
only an error here. Format: https://flatbuffers.dev/internals, tables: ``schema.fbs`` of TensorFlow Lite.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from compression.models.errors import TFLiteFileError
from compression.models.tflite_names import OP_NAMES, TYPE_NAMES

MAGIC = b"TFL3"  # at offset 4
MAX_ITEMS = 1 << 20  # of one vector: tensors, ops, extents
OUTSIDE_BUFFER = 2  # a buffer's data stands after the flatbuffer where its offset is at least this


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor. `data` is its constant content, empty for an activation; -1 in a shape is unknown."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: memoryview
    scales: int  # 0 not quantised, 1 one scale for the tensor, more: one a channel
    is_variable: bool

    @property
    def elements(self) -> int:
        """Number of elements; unknown extents count as 1."""
        return math.prod(abs(extent) for extent in self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers as such."""
        return "float" in self.type


@dataclass(frozen=True, slots=True)
class FileOp:
    """One operation; a custom one is named ``CUSTOM:name``. -1 stands for an input that is left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def flex(self) -> bool:
        """Whether it runs in TensorFlow itself, which no pip runtime carries."""
        return self.name.startswith("CUSTOM:Flex")


@dataclass(frozen=True, slots=True)
class FileGraph:
    """One subgraph; inputs and outputs are positions in `tensors`."""

    tensors: tuple[FileTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ops: tuple[FileOp, ...]


@dataclass(frozen=True, slots=True)
class TFLiteFile:
    """A parsed file."""

    graphs: tuple[FileGraph, ...]
    size: int

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the distinct ops, sorted."""
        return tuple(sorted({op.name for graph in self.graphs for op in graph.ops}))

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Names of the ops that are not builtin, without ``CUSTOM:``."""
        return tuple(name.removeprefix("CUSTOM:") for name in self.ops if name.startswith("CUSTOM:"))

    @property
    def constants(self) -> tuple[FileTensor, ...]:
        """The tensors whose content stands in the file: weights, and the odd shape or index list."""
        return tuple(tensor for graph in self.graphs for tensor in graph.tensors if len(tensor.data))


def read_tflite(data: bytes) -> TFLiteFile:
    """Parse a file.

    Raises:
        TFLiteFileError: it is not one, or is cut short or damaged; never anything else.
    """
    if len(data) < 8 or data[4:8] != MAGIC:
        raise TFLiteFileError(f"not a TFLite file: {len(data)} bytes without the mark {MAGIC.decode()}")
    try:
        return _read_model(Table.root(memoryview(data)), len(data))
    except (struct.error, ValueError, LookupError, ArithmeticError) as exc:
        raise TFLiteFileError(f"the TFLite file is damaged or cut short: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Table:
    """One flatbuffer table: fields by number, absent ones by default."""

    view: memoryview
    at: int

    @classmethod
    def root(cls, view: memoryview) -> Table:
        return cls(view, _unpack("<I", view, 0))

    def field(self, number: int) -> int:
        """Where a field is; 0 where it is absent."""
        vtable = self.at - _unpack("<i", self.view, self.at)
        slot = 4 + 2 * number
        if slot + 2 > _unpack("<H", self.view, vtable):
            return 0
        offset = _unpack("<H", self.view, vtable + slot)
        return self.at + offset if offset else 0

    def scalar(self, number: int, code: str, default: int = 0) -> int:
        where = self.field(number)
        return _unpack(code, self.view, where) if where else default

    def vector(self, number: int) -> int:
        """Where a list's length stands, its items behind it; 0 where it is absent."""
        where = self.field(number)
        return where + _unpack("<I", self.view, where) if where else 0

    def inline(self, number: int) -> bytes:
        """The fixed-size part of a table that this one refers to; empty where it is absent."""
        if not (at := self.vector(number)):
            return b""
        size = _unpack("<H", self.view, at - _unpack("<i", self.view, at) + 2)
        return bytes(self.view[at + 4 : at + size])

    def _vector(self, number: int, limit: int) -> tuple[int, int]:
        start = self.vector(number)
        if not start:
            return 0, 0
        count = _unpack("<I", self.view, start)
        if count > limit:
            raise ValueError(f"a list of {count} items")
        return start + 4, count

    def numbers(self, number: int, code: str) -> tuple[int, ...]:
        start, count = self._vector(number, MAX_ITEMS)
        _check(start, self.view)
        return struct.unpack_from(f"<{count}{code}", self.view, start)

    def count(self, number: int) -> int:
        return self._vector(number, MAX_ITEMS)[1]

    def raw(self, number: int) -> memoryview:
        start, count = self._vector(number, len(self.view))
        if start + count > len(self.view):
            raise ValueError(f"{count} bytes at {start} lie beyond the end")
        return self.view[start : start + count]

    def text(self, number: int) -> str:
        return bytes(self.raw(number)).decode("utf-8", "replace")

    def tables(self, number: int) -> list[Table]:
        start, count = self._vector(number, MAX_ITEMS)
        places = [start + 4 * index for index in range(count)]
        return [Table(self.view, place + _unpack("<I", self.view, place)) for place in places]


def _unpack(code: str, view: memoryview, at: int) -> int:
    _check(at, view)
    return int(struct.unpack_from(code, view, at)[0])


def _check(at: int, view: memoryview) -> None:
    if not 0 <= at < len(view):  # struct would count a negative offset from the end
        raise ValueError(f"offset {at} of {len(view)} bytes")


def _read_model(model: Table, size: int) -> TFLiteFile:
    names = [_op_name(code) for code in model.tables(1)]
    buffers = [_buffer(table) for table in model.tables(4)]
    graphs = tuple(_read_graph(table, names, buffers) for table in model.tables(2))
    if not graphs:
        raise ValueError("it has no graph")
    return TFLiteFile(graphs, size)


def _op_name(code: Table) -> str:
    # The old field holds one byte and 127 for "look at the new one"; the larger one is right.
    number = max(code.scalar(0, "<b"), code.scalar(3, "<i"))
    if OP_NAMES[number] == "CUSTOM":
        return f"CUSTOM:{code.text(1)}"
    return OP_NAMES[number]


def _buffer(table: Table) -> memoryview:
    start, length = table.scalar(1, "<Q"), table.scalar(2, "<Q")
    if start < OUTSIDE_BUFFER:
        return table.raw(0)
    if start + length > len(table.view):
        raise ValueError(f"{length} bytes at {start} lie beyond the end")
    return table.view[start : start + length]


def _read_graph(table: Table, names: list[str], buffers: list[memoryview]) -> FileGraph:
    tensors = tuple(_read_tensor(item, buffers) for item in table.tables(0))
    ops = tuple(
        FileOp(names[item.scalar(0, "<I")], item.numbers(1, "i"), item.numbers(2, "i"))
        for item in table.tables(3)
    )
    inputs, outputs = table.numbers(1, "i"), table.numbers(2, "i")
    used = [index for op in ops for index in (*op.inputs, *op.outputs)] + [*inputs, *outputs]
    if used and not (min(used) >= -1 and max(used) < len(tensors)):
        raise ValueError(f"it refers to a tensor that is none of its {len(tensors)}")
    return FileGraph(tensors, inputs, outputs, ops)


def _read_tensor(table: Table, buffers: list[memoryview]) -> FileTensor:
    quantisation = table.field(4)
    scales = 0
    if quantisation:
        offset = _unpack("<I", table.view, quantisation)
        scales = Table(table.view, quantisation + offset).count(2)
    return FileTensor(
        name=table.text(3),
        type=TYPE_NAMES[table.scalar(1, "<b")],
        shape=table.numbers(7, "i") or table.numbers(0, "i"),
        data=buffers[table.scalar(2, "<I")],
        scales=scales,
        is_variable=bool(table.scalar(5, "<b")),
    )
