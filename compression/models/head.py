"""The end of the network: whatever a Keras model ends in, the exported file answers with probabilities.

Models end in logits, a sigmoid or a softmax, with one output for two classes or one a class. All are brought
back to logits and given the same end, so that [B, classes] comes out and an integer file rounds both columns
of a binary model alike: the logistic function's int8 scale is 1/256 by definition, the one of ``1 - p`` would
be drawn from the calibration set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compression.models.errors import ExportError
from compression.tf import tensorflow

ENDINGS = ("linear", "sigmoid", "softmax")


LARGEST_PROBABILITY = 255 / 256  # what int8 can say with a scale of 1/256


def inference_function(model: Any, classes: int, *, largest_logit: float | None = None) -> Any:
    """A concrete function from float32 [1, *input] to probabilities [1, classes].

    Args:
        largest_logit: for a model trained with fake quantisation, the magnitude its logits reach: the end
            gets fake quantisation too, or the converter would leave it in floating point.

    Raises:
        ExportError: the model's shape or its end does not fit.
    """
    tf = tensorflow()
    fake = tf.quantization.fake_quant_with_min_max_args
    _check(model, classes)
    last = _last_layer(model)

    def infer(x: Any) -> Any:
        logits = model(x, training=False)
        one_output = classes == 2 and int(logits.shape[-1]) == 1
        if one_output:
            logits = logits * tf.constant([[-1.0, 1.0]])
        if largest_logit is None:
            return tf.sigmoid(logits) if one_output else tf.nn.softmax(logits)
        if one_output:
            logits = fake(logits, -largest_logit, largest_logit)
        return fake(tf.sigmoid(logits) if one_output else tf.nn.softmax(logits), 0.0, LARGEST_PROBABILITY)

    signature = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="x")
    with _ending_in_logits(last, tf):
        return tf.function(infer, autograph=False).get_concrete_function(signature)


def _check(model: Any, classes: int) -> None:
    shape = getattr(model, "input_shape", None)
    if not getattr(model, "_is_graph_network", False) or not isinstance(shape, tuple):
        raise ExportError(
            f"{type(model).__name__} is not a tf_keras model with one fixed input: begin it with Input"
        )
    if None in shape[1:]:
        raise ExportError(f"model {model.name!r} has input {shape}: give every extent but the batch")
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ExportError(f"model {model.name!r} must have one output of shape [batch, outputs]")
    outputs = int(model.output_shape[-1])
    if outputs != classes and (outputs, classes) != (1, 2):
        raise ExportError(f"model {model.name!r} has {outputs} outputs for {classes} classes")
    ending = _ending(_last_layer(model))
    if ending not in ENDINGS:
        raise ExportError(
            f"model {model.name!r} ends in {ending}: end it in logits (no activation), sigmoid or softmax"
        )


def _last_layer(model: Any) -> Any:
    layer = model.outputs[0]._keras_history.layer
    return _last_layer(layer) if hasattr(layer, "layers") else layer


def _ending(layer: Any) -> str:
    if type(layer).__name__ == "Softmax":
        return "softmax"
    return str(getattr(getattr(layer, "activation", None), "__name__", "linear"))


@contextmanager
def _ending_in_logits(last: Any, tf: Any) -> Iterator[None]:
    """Take the last activation away while the network is traced, and put it back."""
    if type(last).__name__ == "Softmax":
        last.call = lambda x, *_, **__: tf.identity(x)
        try:
            yield
        finally:
            del last.call  # the method of the class comes to light again
        return
    kept = getattr(last, "activation", None)
    if kept is not None:
        last.activation = tf.identity
    try:
        yield
    finally:
        if kept is not None:
            last.activation = kept
