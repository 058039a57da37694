"""How a TFLite file computes, as the file itself says: the converter falls back silently.

Three words, of which the first and the last leave nothing out:

- "full-integer": every op works on integers, but for those that convert at the ends;
- "dynamic-range": there are int8 weights, and some op computes in floating point;
- "none": no weight is int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compression.models.tflite_file import FileGraph, FileOp, FileTensor, TFLiteFile

Calibration = Literal["full-integer", "dynamic-range", "none"]

CONVERTING = ("QUANTIZE", "DEQUANTIZE")  # the ends of an integer network: float32 outside, int8 inside
SMALL_WEIGHTS = ("int8", "int4", "int2", "uint8")


@dataclass(frozen=True, slots=True)
class Precision:
    """What was found in a file.

    Attributes:
        calibration: the word for it.
        weight_types: bytes of constants by type, the largest share first.
        float_ops: distinct ops that compute in floating point, for a mixed file the ones that fell back.
        per_channel: number of weights with one scale a channel.
    """

    calibration: Calibration
    weight_types: dict[str, int]
    float_ops: tuple[str, ...]
    per_channel: int


def precision_of(file: TFLiteFile) -> Precision:
    """Read a file's types."""
    weights: dict[str, int] = {}
    for tensor in file.constants:
        weights[tensor.type] = weights.get(tensor.type, 0) + len(tensor.data)
    float_ops = {
        op.name
        for graph in file.graphs
        for op in graph.ops
        if op.name not in CONVERTING and _floats(graph, op)
    }
    small = [
        tensor
        for tensor in file.constants
        if tensor.type in SMALL_WEIGHTS and tensor.scales and tensor.elements
    ]
    return Precision(
        calibration=_word(bool(float_ops), bool(small)),
        weight_types=dict(sorted(weights.items(), key=lambda item: -item[1])),
        float_ops=tuple(sorted(float_ops)),
        per_channel=sum(1 for tensor in small if tensor.scales > 1),
    )


def _word(floats: bool, small: bool) -> Calibration:
    if not small:
        return "none"
    return "dynamic-range" if floats else "full-integer"


def _floats(graph: FileGraph, op: FileOp) -> bool:
    """Whether the op reads or writes a floating-point activation; constants alone do not decide."""
    touched: list[FileTensor] = [graph.tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0]
    return any(tensor.is_float and not len(tensor.data) for tensor in touched)
