"""A Keras model read as a graph of layers and run with the primitives of this package.

Bias and ReLU before a max pool wait until after it: a monotonous function of the maximum is the maximum of
the function, so values and gradients stay the same (where ReLU makes ties of different values, it also stops
their gradient), and both passes work on a quarter of the elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from compression.sparsity import is_kernel
from compression.trainable.checks import check_model, output_layer
from compression.trainable.constraints import Constraint, fake_activation, fake_parameters
from compression.trainable.layers import RULES, Pass, activation_name, finish
from compression.trainable.variables import leaf_layers, travelling_variables, variable_key

Tensor = Any
WAITS_FOR_POOL = ("linear", "relu", "relu6")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")


class Network:
    """The forward pass of a supported Keras model up to its logits.

    Raises:
        TrainableError: the model or one of its layers is not supported; the message names it and says
            what to use instead.
    """

    def __init__(self, model: Any, constraint: Constraint | None = None) -> None:
        self.model = model
        self.constraint = constraint or Constraint()
        check_model(model)
        self.variables = travelling_variables(model)
        self.last = output_layer(model)
        self.outputs = int(model.output_shape[-1])
        self._constants = {
            (layer.name, variable_key(variable)): variable.numpy()
            for layer in leaf_layers(model)
            for variable in layer.weights
            if not layer.trainable
        }

    @property
    def batch_statistics(self) -> str | None:
        """A layer whose output for one example depends on the others of the batch; None if there is none."""
        return next(
            (
                str(layer.name)
                for layer in leaf_layers(self.model)
                if type(layer).__name__ == "BatchNormalization" and layer.trainable
            ),
            None,
        )

    def logits(self, x: Tensor, parameters: Mapping[str, Tensor], state: Pass) -> Tensor:
        """Outputs before the last sigmoid or softmax."""
        by_layer: dict[str, dict[str, Tensor]] = {}
        for item in self.variables:
            by_layer.setdefault(item.layer.name, {})[item.key] = parameters[item.spec.name]
        for (layer, key), value in self._constants.items():
            by_layer.setdefault(layer, {})[key] = tf.constant(value)
        return self._run(self.model, x, by_layer, state)

    def _run(self, model: Any, x: Tensor, by_layer: Mapping[str, Any], given: Pass) -> Tensor:
        """Walk the functional graph as `tf_keras.Model.call` does, lowering instead of calling."""
        values = {str(id(model.inputs[0])): [x] * model._tensor_usage_count[str(id(model.inputs[0]))]}
        pooled, waiting = _only_pooled(model), dict[str, Callable[[Tensor], Tensor]]()
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments, options = node.map_arguments(values)
                state = given if options.get("training") is None else Pass(False)  # `check_model` wants False
                key, source = node.flat_output_ids[0], node.flat_input_ids[0]
                if key in pooled and _can_wait(node.layer):
                    y, waiting[key] = self._lower_in_two(node.layer, arguments[0], by_layer, state)
                else:
                    y = self._lower(node.layer, arguments[0], by_layer, state)
                    y = waiting[source](y) if source in waiting else y
                values[key] = [y] * model._tensor_usage_count[key]
        return values[str(id(model.outputs[0]))].pop()

    def _lower(self, layer: Any, x: Any, by_layer: Mapping[str, Any], state: Pass) -> Tensor:
        if hasattr(layer, "layers"):
            return self._run(layer, x, by_layer, state)
        x, parameters = self._rounded(x, by_layer.get(layer.name, {}))
        if layer is not self.last:
            return RULES[type(layer).__name__].lower(layer, x, parameters, state)
        if type(layer).__name__ in ("Activation", "Softmax"):
            return x
        return RULES[type(layer).__name__].lower(_WithoutActivation(layer), x, parameters, state)

    def _lower_in_two(
        self, layer: Any, x: Tensor, by_layer: Mapping[str, Any], state: Pass
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The layer up to its bias and activation, and these as a function."""
        if type(layer).__name__ not in CONVOLUTIONS:
            return x, lambda pooled: self._lower(layer, pooled, by_layer, state)
        x, parameters = self._rounded(x, by_layer[layer.name])
        kernels = {key: value for key, value in parameters.items() if key != "bias"}
        y = RULES[type(layer).__name__].lower(_WithoutActivation(layer), x, kernels, state)
        return y, lambda pooled: finish(layer, pooled, parameters)

    def _rounded(self, x: Any, parameters: Mapping[str, Tensor]) -> tuple[Any, Mapping[str, Tensor]]:
        """A layer's input and parameters as int8 will have them, where that is asked for."""
        if not self.constraint.fake_int8 or not any(is_kernel(key) for key in parameters):
            return x, parameters
        return fake_activation(x), fake_parameters(parameters)

    def statistics(self, state: Pass, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Moving statistics after a training pass, by wire name."""
        return {
            item.spec.name: state.statistics.get((item.layer.name, item.key), parameters[item.spec.name])
            for item in self.variables
            if item.spec.role == "statistic"
        }

    def penalty_gradients(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of the L1 and L2 regularisers of what is trained, by wire name."""
        gradients = {}
        for item in self.variables:
            if item.spec.role != "trainable":
                continue
            l1, l2 = _penalty(item.layer, item.key)
            w = parameters[item.spec.name]
            if l2:
                gradients[item.spec.name] = (2.0 * l2) * w
            if l1:
                gradients[item.spec.name] = gradients.get(item.spec.name, 0.0) + l1 * tf.sign(w)
        return gradients


class _WithoutActivation:
    """A layer seen without its activation: the losses want logits."""

    activation = None

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _only_pooled(model: Any) -> set[str]:
    """Ids of the tensors whose only use is a max pool."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes if not node.is_input]
    uses = Counter(key for node in nodes for key in node.flat_input_ids)
    uses.update(str(id(tensor)) for tensor in model.outputs)
    pools = {node.flat_input_ids[0] for node in nodes if type(node.layer).__name__ == "MaxPooling2D"}
    return {key for key in pools if uses[key] == 1}


def _can_wait(layer: Any) -> bool:
    if type(layer).__name__ in (*CONVOLUTIONS, "Activation"):
        return activation_name(layer) in WAITS_FOR_POOL
    return type(layer).__name__ == "ReLU" and not float(layer.negative_slope)


def _penalty(layer: Any, key: str) -> tuple[float, float]:
    name = key.removesuffix("_kernel")  # a depthwise_kernel's is depthwise_regularizer
    regulariser = getattr(layer, f"{name}_regularizer", None)
    return float(getattr(regulariser, "l1", 0.0)), float(getattr(regulariser, "l2", 0.0))
