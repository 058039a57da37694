"""From TensorFlow functions to a TFLite file of builtin ops that carries no weights."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert_phase import ConverterError

from compression.trainable.errors import TrainableError
from compression.trainable.flatbuffer import OP_NAMES, optimise


def convert(program: Any, signatures: Mapping[str, Any]) -> bytes:
    """Convert; the result holds builtin ops only.

    Raises:
        TrainableError: the converter left an op that the device's runtime does not have.
    """
    with tempfile.TemporaryDirectory(prefix="bramble-") as directory:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(program, directory, signatures=dict(signatures), options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        try:
            data = bytes(converter.convert())
        except ConverterError as exc:
            needed = sorted(set(re.findall(r"tf\.([A-Z]\w+)", str(exc))))
            raise TrainableError(
                f"this combination of layers needs {', '.join(needed) or 'ops'} that TFLite lacks; please "
                "report the model"
            ) from exc
    foreign = [name for name in op_names(data) if name.startswith(("CUSTOM", "Flex"))]
    if foreign:
        raise TrainableError(f"the converted program needs {', '.join(foreign)}, which no TFLite runtime has")
    return optimise(data)


def op_names(data: bytes) -> tuple[str, ...]:
    """The distinct ops that a TFLite file runs; those that are not builtin as ``CUSTOM:name``."""
    model = schema.Model.GetRootAs(data, 0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    used = {
        graph.Operators(index).OpcodeIndex() for graph in graphs for index in range(graph.OperatorsLength())
    }
    return tuple(sorted({_op_name(codes[index]) for index in used}))


def _op_name(code: Any) -> str:
    custom = code.CustomCode()
    if custom:
        return f"CUSTOM:{custom.decode()}"
    return str(OP_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
