"""Changes to the converted file that TensorFlow's converter does not make.

- The initial values go: the program's weights always come from outside, so a copy in the file is dead weight
  on the wire and in the device's memory.
- A convolution's or dense layer's bias, and the ReLU behind it, move into the op itself. The converter does
  this for constant biases only, and here all are variables.
- The ops are put in the order that needs the least memory (`compression.trainable.schedule`). The converter
  computes everything that the backward pass wants as early as it can, and keeps it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from compression.trainable.schedule import schedule

OPS = schema.BuiltinOperator
OP_NAMES = {value: name for name, value in vars(OPS).items() if isinstance(value, int)}
WITH_BIAS = (OPS.CONV_2D, OPS.DEPTHWISE_CONV_2D, OPS.FULLY_CONNECTED)


def optimise(data: bytes) -> bytes:
    """The same program, smaller, faster and with less memory."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    _drop_initial_values(model, codes)
    for graph in model.subgraphs:
        _fuse_biases(model, graph, codes)
        graph.operators = schedule(graph, codes)
    _drop_unused_buffers(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _drop_initial_values(model: Any, codes: list[int]) -> None:
    for graph in model.subgraphs:
        graph.operators = [op for op in graph.operators if codes[op.opcodeIndex] != OPS.CALL_ONCE]
    wanted = {signature.subgraphIndex for signature in model.signatureDefs}
    if wanted == set(range(len(wanted))):  # the initialiser is the last subgraph: nothing needs renumbering
        model.subgraphs = model.subgraphs[: len(wanted)]


def _fuse_biases(model: Any, graph: Any, codes: list[int]) -> None:
    """conv(x, w, zeros) + b becomes conv(x, w, b), with the addition's activation.

    The bias may be made after the convolution; `schedule` puts that right.
    """
    made_by = {int(op.outputs[0]): op for op in graph.operators if len(op.outputs) == 1}
    readers = Counter(int(index) for op in graph.operators for index in op.inputs)
    readers.update(int(index) for index in graph.outputs)
    kept = []
    for op in graph.operators:
        source = made_by.get(int(op.inputs[0])) if codes[op.opcodeIndex] == OPS.ADD else None
        if (
            source is None
            or readers[int(op.inputs[0])] > 1
            or not _takes_bias(model, graph, codes, source, op)
        ):
            kept.append(op)
            continue
        source.inputs = [*(int(index) for index in source.inputs[:2]), int(op.inputs[1])]
        source.builtinOptions.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
        source.outputs = op.outputs
    graph.operators = kept


def _takes_bias(model: Any, graph: Any, codes: list[int], source: Any, addition: Any) -> bool:
    if codes[source.opcodeIndex] not in WITH_BIAS or source.builtinOptions.fusedActivationFunction:
        return False
    channels = int(graph.tensors[int(source.outputs[0])].shape[-1])
    if [int(extent) for extent in graph.tensors[int(addition.inputs[1])].shape] != [channels]:
        return False
    bias = int(source.inputs[2]) if len(source.inputs) > 2 else -1
    if bias < 0:
        return True
    data = model.buffers[graph.tensors[bias].buffer].data
    return data is not None and not any(bytes(data))


def _drop_unused_buffers(model: Any) -> None:
    """Empty the buffers that no tensor refers to any more; their numbers stay."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
