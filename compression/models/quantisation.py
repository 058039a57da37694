"""The converter's settings for each kind of quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from compression.tf import tensorflow

Quantisation = Literal["float32", "dynamic", "float16", "int8", "int16x8"]
QUANTISATIONS: tuple[Quantisation, ...] = get_args(Quantisation)
PortType = Literal["float32", "uint8", "int8"]


def make_converter(function: Any, model: Any) -> Any:
    """A converter to builtin ops that both runtimes have."""
    lite = tensorflow().lite
    converter = lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS]
    # tflite-runtime 2.14 has one scale for a dense layer's weights and reads no more of them.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter


def set_quantisation(
    converter: Any,
    quantisation: Quantisation,
    *,
    calibration: npt.NDArray[np.float32] | None,
    ports: PortType = "float32",
) -> None:
    """Tell the converter; "int8" without examples, and without fake quantisation, is dynamic-range."""
    tf = tensorflow()
    if quantisation == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantisation == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantisation in ("int8", "int16x8") and calibration is not None:
        converter.representative_dataset = lambda: one_by_one(calibration)
    if quantisation == "int16x8":
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    if ports != "float32":
        converter.inference_input_type = converter.inference_output_type = getattr(tf, ports)


def one_by_one(examples: npt.NDArray[np.float32]) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Examples as the converter's calibrator takes them."""
    for example in examples:
        yield [np.asarray(example[None], np.float32)]
