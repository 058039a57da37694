"""A trained Keras model as a TFLite file for inference: float32, float16, dynamic-range, int8 or int16x8.

Inputs and outputs stay float32 whatever is inside unless other ports are asked for, so that a caller never
needs to know: [1, *input] in, probabilities [1, classes] out. The batch is fixed to one example, which is
what latency is about; a caller with many examples loops. Post-training quantisation as in Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

What a file became is read from the file (`compression.models.precision`): the converter falls back silently,
and leaves weights of fewer than 1024 elements in float32 when it has no calibration set.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.errors import ExportError
from compression.models.head import inference_function
from compression.models.precision import Calibration, precision_of
from compression.models.quantisation import (
    QUANTISATIONS,
    PortType,
    Quantisation,
    make_converter,
    quantised,
    set_quantisation,
)
from compression.models.tflite_file import read_tflite
from compression.tf import quiet

Recipe = Quantisation
RECIPES = QUANTISATIONS

MIN_CALIBRATION_EXAMPLES = 8  # fewer do not show the range of an activation


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A TFLite file and what it became.

    Attributes:
        tflite: the file.
        recipe: what was asked for.
        calibration: what the file is: "full-integer", "dynamic-range" or "none" (all float).
        ops: the distinct builtin ops it needs.
        float_ops: those of them that compute in floating point; empty for "full-integer".
    """

    tflite: bytes
    recipe: Recipe
    calibration: Calibration
    ops: tuple[str, ...]
    float_ops: tuple[str, ...]


def export_model(
    model: Any,
    *,
    classes: int,
    recipe: Recipe,
    calibration: npt.NDArray[np.float32] | None = None,
    ports: PortType = "float32",
) -> ExportedModel:
    """Convert a `tf_keras` model; the model itself is left as it was.

    Args:
        model: ends in logits, sigmoid or softmax; one output for two classes, else one a class.
        classes: number of classes.
        recipe: "int8" becomes full-integer with a calibration set and dynamic-range without.
        calibration: float32 [N, *input shape], preprocessed as for training.
        ports: type of input and output; other than float32 for calibrated "int8" only.

    Raises:
        ExportError: the model or the calibration set does not fit, or the converter refuses.
    """
    if recipe not in RECIPES:
        raise ExportError(f"unknown recipe {recipe!r}: use one of {', '.join(RECIPES)}")
    function = inference_function(model, classes)
    if recipe in ("int8", "int16x8") and calibration is not None:
        check_calibration(calibration, tuple(model.input_shape[1:]))
    elif recipe == "int16x8" or ports != "float32":
        raise ExportError(f"{recipe} with {ports} in and out needs calibration examples")
    return export_function(function, model, recipe=recipe, calibration=calibration, ports=ports)


def export_function(
    function: Any,
    model: Any,
    *,
    recipe: Recipe,
    calibration: npt.NDArray[np.float32] | None = None,
    ports: PortType = "float32",
) -> ExportedModel:
    """Convert what `inference_function` made of a model, which may carry fake quantisation."""
    converter = make_converter(function, model)
    set_quantisation(converter, recipe, calibration=calibration, ports=ports)
    converter._experimental_calibrate_only = in_two_steps = recipe == "int8" and calibration is not None
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Statistics for quantized inputs")  # they were learnt
            tflite = bytes(converter.convert())
            if in_two_steps:
                tflite = quantised(tflite, ports=ports)
    except Exception as exc:  # the converter raises many types, each with a trace of its own
        raise ExportError(f"model {model.name!r} cannot be converted: {_first_line(exc)}") from exc
    return described(tflite, recipe, model.name)


def described(tflite: bytes, recipe: Recipe, name: str) -> ExportedModel:
    """What a file became; raise `ExportError` if no runtime on a device can run it."""
    file = read_tflite(tflite)
    if file.custom_ops:
        needs = ", ".join(file.custom_ops)
        raise ExportError(f"model {name!r} needs {needs}, which no TFLite runtime on a device has")
    precision = precision_of(file)
    return ExportedModel(tflite, recipe, precision.calibration, file.ops, precision.float_ops)


def calibration_of(tflite: bytes) -> Calibration:
    """How a file's activations are represented, as the file itself says; raise `TFLiteFileError`."""
    return precision_of(read_tflite(tflite)).calibration


def check_calibration(calibration: npt.NDArray[np.float32], shape: tuple[int, ...]) -> None:
    """Raise `ExportError` unless the examples can show the range of every activation."""
    if len(calibration) < MIN_CALIBRATION_EXAMPLES:
        raise ExportError(
            f"{len(calibration)} calibration examples are too few: give {MIN_CALIBRATION_EXAMPLES} or none"
        )
    if calibration.shape[1:] != shape:
        raise ExportError(f"calibration examples have shape {calibration.shape[1:]}, the model takes {shape}")
    if not np.isfinite(calibration).all():
        raise ExportError("a calibration example holds a value that is not finite")


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:300] if lines else type(exc).__name__
