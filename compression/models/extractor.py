"""The frozen part of a transfer model as an int8 file: float32 picture in, float32 features out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.errors import ExportError
from compression.models.export import ExportedModel, check_calibration, export_function
from compression.tf import tensorflow


def export_extractor(backbone: Any, calibration: npt.NDArray[np.float32] | None = None) -> ExportedModel:
    """Convert; without examples to find activation ranges on, only the weights are int8.

    Args:
        backbone: `tf_keras` model from [B, *input] to [B, features].
        calibration: float32 [N, *input], preprocessed as on the device.

    Raises:
        ExportError: the model or the examples do not fit, or the converter refuses.
    """
    tf = tensorflow()
    if len(backbone.outputs) != 1 or len(backbone.output_shape) != 2:
        raise ExportError(f"extractor {backbone.name!r} must give [batch, features]")
    if calibration is not None:
        check_calibration(calibration, tuple(backbone.input_shape[1:]))
    signature = tf.TensorSpec((1, *backbone.input_shape[1:]), tf.float32, name="x")
    function = tf.function(lambda x: backbone(x, training=False), autograph=False)
    return export_function(
        function.get_concrete_function(signature), backbone, recipe="int8", calibration=calibration
    )
