"""What cannot be compiled is refused by name and with what to use instead, before anything is converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from compression.trainable.errors import TrainableError
from compression.trainable.layers import activation_name, problem_of
from compression.trainable.variables import leaf_layers, travelling_variables

OUTPUT_ACTIVATIONS = ("linear", "sigmoid", "softmax")
ACTIVATION_LAYERS = {"Softmax": "softmax", "ReLU": "relu", "LeakyReLU": "leaky_relu"}
# Behind these a probability is none that a loss could look through.
PASSING_ON = (
    "AveragePooling2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "MaxPooling2D",
    "Reshape",
)


def check_model(model: Any) -> None:
    """Raise `TrainableError` for what cannot be compiled, naming every layer at fault."""
    _check_form(model)
    for each in _models_within(model):
        _check_form(each)
    _check_shapes(model)
    problems = [
        f"layer {layer.name!r}: {problem}"
        for layer in leaf_layers(model)
        if (problem := problem_of(layer) or _penalty_problem(layer))
    ]
    problems += [
        f"layer {node.layer.name!r}: called with training=True: leave that out"
        for node in _nodes(model)
        if node.call_kwargs.get("training") not in (None, False)
    ]
    if problems:
        raise TrainableError("; ".join(problems))
    _check_names(model)
    _check_output(model)
    if not any(item.spec.role == "trainable" for item in travelling_variables(model)):
        raise TrainableError(f"model {model.name!r} has nothing to train: leave at least one layer trainable")


def output_layer(model: Any) -> Any:
    """The layer, of a model within if need be, that the outputs come from."""
    layer = model.outputs[0]._keras_history.layer
    return output_layer(layer) if hasattr(layer, "layers") else layer


def output_activation(model: Any) -> str:
    """What the outputs went through last; "linear" for logits."""
    return _activation_of(output_layer(model))


def _check_form(model: Any) -> None:
    """A graph of layers from one input to one output."""
    if not type(model).__module__.startswith("tf_keras."):
        raise TrainableError(
            f"{type(model).__module__}.{type(model).__name__} is not a tf_keras functional or Sequential "
            "model: build it with tf_keras (or with tf.keras and TF_USE_LEGACY_KERAS=1)"
        )
    if not model.built or not getattr(model, "_is_graph_network", False):
        raise TrainableError(f"model {model.name!r} has no fixed input: begin it with an Input layer")
    if isinstance(model.input, dict) or isinstance(model.output, dict):
        raise TrainableError(
            f"model {model.name!r} takes or gives a dictionary: give Model() the tensors themselves"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TrainableError(
            f"model {model.name!r} must have one input and one output, "
            f"not {len(model.inputs)} and {len(model.outputs)}"
        )


def _check_shapes(model: Any) -> None:
    if len(model.output_shape) != 2:
        raise TrainableError(
            f"model {model.name!r} must have an output of shape [batch, outputs], not {model.output_shape}"
        )
    if None in model.input_shape[1:]:
        raise TrainableError(
            f"model {model.name!r} has input {model.input_shape}: give every extent but the batch"
        )


def _models_within(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield layer
            yield from _models_within(layer)


def _nodes(model: Any) -> Iterator[Any]:
    """Every call of a layer, those in models within as often as they run."""
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            yield node
            if hasattr(node.layer, "layers"):
                yield from _nodes(node.layer)


def _penalty_problem(layer: Any) -> str | None:
    for name in dir(layer):
        if not name.endswith("_regularizer") or name.startswith(("_", "activity")):
            continue
        regulariser = getattr(layer, name)
        if regulariser is not None and type(regulariser).__name__ not in ("L1", "L2", "L1L2"):
            return f"{name} {type(regulariser).__name__} is not supported: use L2"
    return None


def _check_names(model: Any) -> None:
    """Weights go by the names of their layers."""
    layers = {id(layer): str(layer.name) for layer in leaf_layers(model) if layer.weights}
    tensors = [item.spec.name for item in travelling_variables(model)]
    twice = [name for names in (layers.values(), tensors) for name, n in Counter(names).items() if n > 1]
    if twice:
        raise TrainableError(f"two layers have weights called {twice[0]!r}: give one of them another name")


def _check_output(model: Any) -> None:
    last, name, units = output_layer(model), output_activation(model), int(model.output_shape[-1])
    if name not in OUTPUT_ACTIVATIONS:
        raise TrainableError(
            f"layer {last.name!r} ends the model with {name}: end in logits (no activation), "
            "sigmoid or softmax"
        )
    if (name == "sigmoid" and units > 1) or (name == "softmax" and units == 1):
        raise TrainableError(
            f"layer {last.name!r} ends the model with {name} of {units} outputs: use sigmoid for 1 output, "
            "softmax for more"
        )
    if name != "linear" and sum(node.layer is last for node in _nodes(model)) > 1:
        raise TrainableError(
            f"layer {last.name!r} ends the model and is used before, too: give the end a layer of its own"
        )
    source = _source_of_output(model)
    if source is not last and _activation_of(source) in ("sigmoid", "softmax"):
        raise TrainableError(
            f"layer {last.name!r} ends the model behind the {_activation_of(source)} of {source.name!r}: "
            "take it out there and give it last, as Activation"
        )


def _activation_of(layer: Any) -> str:
    return ACTIVATION_LAYERS.get(type(layer).__name__, activation_name(layer))


def _source_of_output(model: Any) -> Any:
    """The layer whose values come out, pooled and in another shape at most."""
    tensor = model.outputs[0]
    while True:
        layer, place, _ = tensor._keras_history
        if hasattr(layer, "layers"):
            tensor = layer.outputs[0]
        elif type(layer).__name__ in PASSING_ON:
            tensor = layer.get_input_at(place)
        else:
            return layer
