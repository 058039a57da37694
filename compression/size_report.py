"""Where the bytes of a TFLite file are: by layer, zipped, against float32, and how many weights are zero.

The zipped size is what a download costs and what pruning and clustering gain; the file's own size is what the
device's memory pays.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from compression.models.precision import Calibration, precision_of
from compression.models.tflite_file import FileGraph, FileOp, FileTensor, read_tflite

FLOAT32_BYTES = 4
COUNTED = {"float32": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1", "int16": "<i2", "int32": "<i4"}


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One constant: a kernel, a bias, a shape or an index list."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    zeros: int
    scales: int  # 0 not quantised, 1 one for the tensor, more: one a channel


@dataclass(frozen=True, slots=True)
class LayerSize:
    """The constants of one op."""

    name: str
    op: str
    type: str  # of the largest constant
    elements: int
    bytes: int
    zeros: int
    tensors: tuple[TensorSize, ...]

    @property
    def float32_bytes(self) -> int:
        """What the same numbers take as float32."""
        return FLOAT32_BYTES * self.elements


@dataclass(frozen=True, slots=True)
class SizeReport:
    """One file.

    Attributes:
        file_bytes, zipped_bytes: of the file as it is and as a zip archive stores it.
        constant_bytes: of all weights and the like; the rest of the file is the graph.
        float32_bytes: what the same constants take as float32.
        elements, zeros: of all constants; a zero is one that is stored as exactly 0.
        calibration: "full-integer", "dynamic-range" or "none".
        layers: with constants, in the order they run.
    """

    file_bytes: int
    zipped_bytes: int
    constant_bytes: int
    float32_bytes: int
    elements: int
    zeros: int
    calibration: Calibration
    layers: tuple[LayerSize, ...]

    @property
    def sparsity(self) -> float:
        """Share of the constants that are zero."""
        return self.zeros / self.elements if self.elements else 0.0


def size_report(tflite: bytes) -> SizeReport:
    """Measure a file; raise `compression.models.errors.TFLiteFileError` if it is none."""
    file = read_tflite(tflite)
    layers = tuple(layer for graph in file.graphs for layer in _layers(graph))
    return SizeReport(
        file_bytes=len(tflite),
        zipped_bytes=zipped_bytes(tflite),
        constant_bytes=sum(layer.bytes for layer in layers),
        float32_bytes=sum(layer.float32_bytes for layer in layers),
        elements=sum(layer.elements for layer in layers),
        zeros=sum(layer.zeros for layer in layers),
        calibration=precision_of(file).calibration,
        layers=layers,
    )


def zipped_bytes(data: bytes) -> int:
    """Size of a zip archive that holds these bytes alone."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model.tflite", data)
    return len(stream.getvalue())


def _layers(graph: FileGraph) -> list[LayerSize]:
    """Each constant counts with the first op that reads it."""
    seen: set[int] = set()
    layers = []
    for op in graph.ops:
        fresh = [index for index in op.inputs if index >= 0 and index not in seen]
        seen.update(fresh)
        constants = [graph.tensors[index] for index in fresh if len(graph.tensors[index].data)]
        if constants:
            layers.append(_layer(graph, op, constants))
    return layers


def _layer(graph: FileGraph, op: FileOp, constants: list[FileTensor]) -> LayerSize:
    largest = max(constants, key=lambda tensor: len(tensor.data))
    return LayerSize(
        name=_layer_name(largest.name, graph.tensors[op.outputs[0]].name if op.outputs else ""),
        op=op.name,
        type=largest.type,
        elements=sum(tensor.elements for tensor in constants),
        bytes=sum(len(tensor.data) for tensor in constants),
        zeros=sum(_zeros(tensor) for tensor in constants),
        tensors=tuple(
            TensorSize(
                tensor.name, tensor.type, tensor.shape, len(tensor.data), _zeros(tensor), tensor.scales
            )
            for tensor in constants
        ),
    )


def _layer_name(weights: str, output: str) -> str:
    """As Keras named it: the converter writes ``model/layer/Conv2D``, or several such with ``;`` between."""
    for name in (weights, output):
        path = name.split(";")[0].split("/")
        if len(path) > 2:
            return "/".join(path[1:-1])
    return output or weights


def _zeros(tensor: FileTensor) -> int:
    kind = COUNTED.get(tensor.type)
    if kind is None or len(tensor.data) != tensor.elements * np.dtype(kind).itemsize:
        return 0
    return tensor.elements - int(np.count_nonzero(np.frombuffer(tensor.data, kind)))
