"""The flatbuffer reader against TensorFlow's own schema, and against bytes gone wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.models.errors import TFLiteFileError
from compression.models.export import export_model
from compression.models.precision import precision_of
from compression.models.tflite_file import read_tflite
from compression.models.tflite_names import OP_NAMES, TYPE_NAMES
from tests.compression.test_models_export import SHAPE, make_model


@pytest.fixture(scope="module")
def int8() -> bytes:
    examples = np.random.default_rng(3).random((16, *SHAPE), dtype=np.float32)
    return export_model(make_model(), classes=2, recipe="int8", calibration=examples).tflite


def test_names_are_those_of_tensorflow() -> None:
    from tensorflow.lite.python import schema_py_generated as schema

    ops = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    for number, name in ops.items():
        assert number >= len(OP_NAMES) or OP_NAMES[number] == name
    kinds = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    for number, name in kinds.items():
        assert number >= len(TYPE_NAMES) or TYPE_NAMES[number] == name.lower()


def test_what_is_read_is_what_tensorflow_reads(int8: bytes) -> None:
    from tensorflow.lite.tools import flatbuffer_utils

    model: Any = flatbuffer_utils.convert_bytearray_to_object(bytearray(int8))
    [graph], [ours] = model.subgraphs, read_tflite(int8).graphs
    assert len(ours.tensors) == len(graph.tensors)
    for tensor, read in zip(graph.tensors, ours.tensors, strict=True):
        assert read.name == tensor.name.decode()
        assert read.type == TYPE_NAMES[tensor.type]
        assert read.shape == tuple(tensor.shape if tensor.shape is not None else ())
        data = model.buffers[tensor.buffer].data
        assert bytes(read.data) == (b"" if data is None else bytes(data))
        scale = tensor.quantization.scale if tensor.quantization else None
        assert read.scales == (0 if scale is None else len(scale))
    assert ours.inputs == tuple(graph.inputs) and ours.outputs == tuple(graph.outputs)
    for op, seen in zip(graph.operators, ours.ops, strict=True):
        code = model.operatorCodes[op.opcodeIndex]
        assert seen.name == OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        assert (seen.inputs, seen.outputs) == (tuple(op.inputs), tuple(op.outputs))


def test_flex_ops_are_named() -> None:
    import tensorflow as tf

    from compression.tf import quiet

    function = tf.function(tf.linalg.inv).get_concrete_function(tf.TensorSpec((4, 4)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with quiet():
        file = read_tflite(converter.convert())
    assert file.custom_ops == ("FlexMatrixInverse",)
    assert any(op.flex for graph in file.graphs for op in graph.ops)


def test_precision_counts_weights_by_type(int8: bytes) -> None:
    precision = precision_of(read_tflite(int8))
    assert precision.calibration == "full-integer"
    assert next(iter(precision.weight_types)) == "int8"
    assert precision.per_channel == 1  # the convolution; dense layers have one scale, for tflite-runtime 2.14


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x00" * 64, b"\x1c\x00\x00\x00TFL3" + b"\xff" * 100])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(TFLiteFileError):
        read_tflite(data)


def test_a_file_cut_anywhere_is_read_or_refused(int8: bytes) -> None:
    for end in range(0, len(int8), 97):
        try:
            read_tflite(int8[:end])
        except TFLiteFileError:
            continue


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_one_error_and_nothing_else(int8: bytes, data: st.DataObject) -> None:
    damaged = bytearray(int8)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_tflite(bytes(damaged))
    except TFLiteFileError as error:
        assert str(error)
