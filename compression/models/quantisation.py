"""The converter's settings for each kind of quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from compression.tf import tensorflow

Quantisation = Literal["float32", "dynamic", "float16", "int8", "int16x8"]
QUANTISATIONS: tuple[Quantisation, ...] = get_args(Quantisation)
PortType = Literal["float32", "uint8", "int8"]
Ranges = Mapping[int, tuple[float, float]]  # lowest and highest value by position of the tensor in the file
PICTURE = (0.0, 1.0)  # what preprocessing makes of the 256 levels of a picture
PICTURE_RANK = 4  # [1, height, width, channels]


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


def quantised(calibrated: bytes, *, ports: PortType = "float32", ranges: Ranges | None = None) -> bytes:
    """The int8 file of a float32 file whose activations have their ranges, or of one and `ranges` for it."""
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.tools import flatbuffer_utils

    tf = tensorflow()
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    graph = content.subgraphs[0]
    for position, (low, high) in (ranges or {}).items():
        set_range(graph.tensors[position], low, high)
    for position in graph.inputs:
        _take_all_levels(graph.tensors[position])
    return bytes(
        mlir_quantize(
            bytes(flatbuffer_utils.convert_object_to_bytearray(content)),
            input_data_type=getattr(tf, ports),
            output_data_type=getattr(tf, ports),
            disable_per_channel_for_dense_layers=True,
        )
    )


def set_range(tensor: Any, low: float, high: float) -> None:
    """Write a range where TensorFlow's calibrator would have."""
    from tensorflow.lite.python import schema_py_generated as schema

    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.min, tensor.quantization.max = [low], [high]


def _take_all_levels(tensor: Any) -> None:
    """A picture's input gets the range of all its levels, whatever the brightest example had.

    Each level is a whole number of steps then. With 252/255 as the brightest, every 42nd level lies in the
    middle between two steps, and one runtime divides where another multiplies by the reciprocal: the two
    round differently, and a step at the input was up to 8/256 of probability at the output.
    """
    found = tensor.quantization
    if found is None or found.min is None or len(tensor.shape) != PICTURE_RANK:
        return
    if PICTURE[0] <= found.min[0] and found.max[0] <= PICTURE[1]:
        set_range(tensor, *PICTURE)


def one_by_one(examples: npt.NDArray[np.float32]) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Examples as the converter's calibrator takes them."""
    for example in examples:
        yield [np.asarray(example[None], np.float32)]
