"""A trained Keras model as a TFLite file for inference: float32, dynamic-range or full-integer int8.

Inputs and outputs stay float32 whatever is inside, so that a caller never needs to know: [1, *input] in,
probabilities [1, classes] out. The batch is fixed to one example, which is what latency is about; a caller
with many examples loops. Post-training quantisation as in Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

What a file became is read from the file (`compression.models.precision`): the converter falls back silently,
and leaves weights of fewer than 1024 elements in float32 when it has no calibration set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compression.models.errors import ExportError
from compression.models.head import inference_function
from compression.models.precision import Calibration, precision_of
from compression.models.tflite_file import read_tflite
from compression.tf import quiet, tensorflow

Recipe = Literal["float32", "dynamic", "int8"]
RECIPES: tuple[Recipe, ...] = ("float32", "dynamic", "int8")

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
    model: Any, *, classes: int, recipe: Recipe, calibration: npt.NDArray[np.float32] | None = None
) -> ExportedModel:
    """Convert a `tf_keras` model; the model itself is left as it was.

    Args:
        model: ends in logits, sigmoid or softmax; one output for two classes, else one a class.
        classes: number of classes.
        recipe: "int8" becomes full-integer with a calibration set and dynamic-range without.
        calibration: float32 [N, *input shape], preprocessed as for training.

    Raises:
        ExportError: the model or the calibration set does not fit, or the converter refuses.
    """
    if recipe not in RECIPES:
        raise ExportError(f"unknown recipe {recipe!r}: use one of {', '.join(RECIPES)}")
    function = inference_function(model, classes)
    if recipe == "int8" and calibration is not None:
        check_calibration(calibration, tuple(model.input_shape[1:]))
    converter = _converter(function, model)
    if recipe != "float32":
        converter.optimizations = [tensorflow().lite.Optimize.DEFAULT]
    if recipe == "int8" and calibration is not None:
        converter.representative_dataset = lambda: _examples(calibration)
    try:
        with quiet():
            tflite = bytes(converter.convert())
    except Exception as exc:  # the converter raises many types, each with a trace of its own
        raise ExportError(f"model {model.name!r} cannot be converted: {_first_line(exc)}") from exc
    file = read_tflite(tflite)
    if file.custom_ops:
        needs = ", ".join(file.custom_ops)
        raise ExportError(f"model {model.name!r} needs {needs}, which no TFLite runtime on a device has")
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


def _converter(function: Any, model: Any) -> Any:
    lite = tensorflow().lite
    converter = lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS]
    # tflite-runtime 2.14 has one scale for a dense layer's weights and reads no more of them.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter


def _examples(calibration: npt.NDArray[np.float32]) -> Iterator[list[npt.NDArray[np.float32]]]:
    for example in calibration:
        yield [np.asarray(example[None], np.float32)]


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:300] if lines else type(exc).__name__
