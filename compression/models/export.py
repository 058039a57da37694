"""A trained Keras model as a TFLite file for inference: float32, dynamic-range or full-integer int8.

Inputs and outputs stay float32 whatever is inside, so that a caller never needs to know: [1, *input]
in, probabilities [1, classes] out. What a file became is read from the file, not assumed: the converter
falls back silently.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Recipe = Literal["float32", "dynamic", "int8"]
Calibration = Literal["full-integer", "dynamic-range", "none"]

MIN_CALIBRATION_EXAMPLES = 8  # fewer do not show the range of an activation


class ExportError(ValueError):
    """The model cannot be exported as asked."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A TFLite file and how its activations are represented."""

    tflite: bytes
    recipe: Recipe
    calibration: Calibration


def export_model(
    model: Any, *, classes: int, recipe: Recipe, calibration: npt.NDArray[np.float32] | None = None
) -> ExportedModel:
    """Convert a `tf_keras` model.

    Args:
        model: ends in logits, sigmoid or softmax; one output for two classes, else one a class.
        classes: number of classes.
        recipe: "int8" becomes full-integer with a calibration set and dynamic-range without.
        calibration: float32 [N, *input shape], preprocessed as for training.

    Raises:
        ExportError: the calibration set is too small, or the converter refuses.
    """
    import tensorflow as tf

    if recipe == "int8" and calibration is not None and len(calibration) < MIN_CALIBRATION_EXAMPLES:
        raise ExportError(
            f"{len(calibration)} calibration examples are too few: give {MIN_CALIBRATION_EXAMPLES} or none"
        )
    function = _inference_function(model, classes)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if recipe != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe == "int8" and calibration is not None:
        converter.representative_dataset = lambda: _examples(calibration)
    try:
        tflite = bytes(_quietly(converter.convert))
    except Exception as exc:
        raise ExportError(f"model {model.name!r} cannot be converted: {str(exc).splitlines()[0]}") from exc
    return ExportedModel(tflite, recipe, calibration_of(tflite))


def calibration_of(tflite: bytes) -> Calibration:
    """How a file's activations are represented, as the file itself says.

    "full-integer": every convolution, matrix product and addition takes int8; "dynamic-range": weights
    are int8 and activations float; "none": all is float.
    """
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    types = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    heavy = [
        [types[index] for index in op["inputs"][:2] if index in types]
        for op in interpreter._get_ops_details()
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "DELEGATE")
    ]
    plain = [pair for pair in heavy if pair]
    if plain and all(kind is np.int8 for pair in plain for kind in pair):
        return "full-integer"
    return "dynamic-range" if np.int8 in types.values() else "none"


def _inference_function(model: Any, classes: int) -> Any:
    import tensorflow as tf

    final = _final_activation(model)

    def infer(x: Any) -> Any:
        outputs = model(x, training=False)
        if int(outputs.shape[-1]) == 1:
            positive = outputs if final == "sigmoid" else tf.sigmoid(outputs)
            return tf.concat([1.0 - positive, positive], axis=-1)
        return outputs if final == "softmax" else tf.nn.softmax(outputs)

    outputs = int(model.output_shape[-1])
    if outputs != (1 if classes == 2 else classes) and outputs != classes:
        raise ExportError(f"model {model.name!r} has {outputs} outputs for {classes} classes")
    shape = (1, *model.input_shape[1:])
    return tf.function(infer).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="x"))


def _final_activation(model: Any) -> str:
    layer = model.outputs[0]._keras_history.layer
    while hasattr(layer, "layers"):
        layer = layer.outputs[0]._keras_history.layer
    if type(layer).__name__ == "Softmax":
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def _examples(calibration: npt.NDArray[np.float32]) -> Iterator[list[npt.NDArray[np.float32]]]:
    for example in calibration:
        yield [example[None]]


def _quietly(convert: Any) -> Any:
    """Run the converter without its paragraph of advice on standard error."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return convert()
    finally:
        logger.setLevel(level)
