"""Activation ranges from elsewhere, written into an int8 file.

Where nobody may see the examples, devices run the float32 file with all its tensors kept and report the range
of each; here the ranges are written into the same file where TensorFlow's calibrator would have put them, and
its quantiser does the rest. With the ranges of the pooled examples it answers as if it had seen them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compression.models.errors import ExportError
from compression.models.export import ExportedModel, described
from compression.models.head import inference_function
from compression.models.quantisation import (
    PortType,
    Ranges,
    make_converter,
    quantised,
    set_quantisation,
)
from compression.tf import quiet

LEAST_EXTENT = (
    1e-3  # of a range: a dead activation has none; XNNPACK refuses a step 256 times finer than the input's
)


@dataclass(frozen=True, slots=True)
class RangeProgram:
    """What devices find ranges with.

    Attributes:
        tflite: float32 file, [1, *input] in.
        tensors: positions of the activations in it: whose ranges are wanted.
    """

    tflite: bytes
    tensors: tuple[int, ...]
    name: str


def range_program(model: Any, classes: int) -> RangeProgram:
    """The float32 file of a model; raise `ExportError` if it cannot be converted."""
    from tensorflow.lite.tools import flatbuffer_utils

    converter = make_converter(inference_function(model, classes), model)
    blank = np.zeros((1, *model.input_shape[1:]), np.float32)
    set_quantisation(converter, "int8", calibration=blank)
    converter._experimental_calibrate_only = True  # the very file that the quantiser takes
    try:
        with quiet():
            calibrated = bytes(converter.convert())
    except Exception as exc:  # the converter raises many types
        raise ExportError(f"model {model.name!r} cannot be converted: {str(exc).splitlines()[0]}") from exc
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    tensors = content.subgraphs[0].tensors
    wanted = tuple(position for position, tensor in enumerate(tensors) if _has_range(tensor))
    for position in wanted:
        tensors[position].quantization = None
    return RangeProgram(bytes(flatbuffer_utils.convert_object_to_bytearray(content)), wanted, model.name)


def quantise_with_ranges(
    program: RangeProgram, ranges: Ranges, *, ports: PortType = "float32"
) -> ExportedModel:
    """The int8 file for these ranges.

    Raises:
        ExportError: a tensor has no range, or one that is not finite, or the quantiser refuses.
    """
    checked = {position: _checked(ranges, position) for position in program.tensors}
    try:
        with quiet():
            tflite = quantised(program.tflite, ports=ports, ranges=checked)
    except Exception as exc:  # the quantiser raises many types
        raise ExportError(f"model {program.name!r} cannot be quantised: {str(exc)[:300]}") from exc
    return described(tflite, "int8", program.name)


def _has_range(tensor: Any) -> bool:
    found = tensor.quantization
    return found is not None and found.min is not None and len(found.min) == 1


def _checked(ranges: Ranges, position: int) -> tuple[float, float]:
    if position not in ranges:
        raise ExportError(f"tensor {position} has no range: every one of the program's needs one")
    low, high = ranges[position]
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ExportError(f"tensor {position} has the range {low} to {high}")
    return low, max(high, low + LEAST_EXTENT)
