"""The training program: variables and signatures, as TensorFlow functions ready for conversion.

All trainable weights lie in one flat vector and all moving statistics in another: one variable instead of
hundreds, an optimiser of a dozen elementwise ops whatever the network, and weights that go in and out as
the wire carries them. The optimiser's state has the same shape.

    train(x, y, weight, learning_rate, proximal_mu [, uniform]) -> loss_sum, weight_sum
    accumulate(x, y, weight [, uniform]) -> loss_sum, weight_sum     in place of train, where a batch is
    apply(learning_rate, proximal_mu, zero) -> done                   too large for the device's memory
    evaluate(x, y, weight) -> loss_sum, probabilities
    infer(x) -> probabilities
    get_weights() -> trainable [, statistics]
    set_weights(trainable [, statistics]) -> done; also the anchor of FedProx, and a zero correction
    set_correction(correction) -> done; SCAFFOLD's c - c_i, added to every gradient
    reset_optimizer(zero) -> done

The gradient is that of ``sum(weight * loss) / count(weight > 0)`` plus regularisers: what Keras computes
with `sample_weight` on a batch of only the real examples. ``mu / 2 * |w - anchor|^2`` is FedProx's term
(Li et al., 2020); ``c - c_i`` SCAFFOLD's (Karimireddy et al., 2020).

`learning_rate`, `proximal_mu` and `zero` are vectors of one number: ai-edge-litert 2.1 to 2.3 for aarch64
ends in a segmentation fault where a signature is given a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from compression.spec import Loss, Optimizer
from compression.trainable.constraints import zero_mask
from compression.trainable.layers import Pass
from compression.trainable.losses import loss_value, probabilities
from compression.trainable.network import Network
from compression.trainable.optimizers import OPTIMIZERS, State
from compression.trainable.variables import leaf_layers

Tensor = Any
Inputs = Mapping[str, Tensor]  # by the names of the signature


class Program(tf.Module):  # type: ignore[misc]
    """State and signatures of one model's training."""

    def __init__(
        self,
        network: Network,
        *,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        label_smoothing: float,
        accumulates: bool,
    ) -> None:
        super().__init__(name="program")
        self.network = network
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.rule = OPTIMIZERS[optimizer]
        self.batch_size = batch_size
        self.accumulates = accumulates
        self.trainable_specs = [v.spec for v in network.variables if v.spec.role == "trainable"]
        self.statistic_specs = [v.spec for v in network.variables if v.spec.role == "statistic"]
        size = sum(spec.size for spec in self.trainable_specs)
        self.weights = _variable("weights", size)
        self.anchor = _variable("anchor", size)
        self.correction = _variable("correction", size)
        self.slots = [_variable(f"slot_{index}", size) for index in range(self.rule.slots)]
        self.decayed = _variable("decayed", 2)
        if accumulates:
            self.gathered = _variable("gathered", size)
            self.count = _variable("count", 1)
        statistics = sum(spec.size for spec in self.statistic_specs)
        self.statistics = _variable("statistics", statistics) if statistics else None
        self.uniform_columns = self._count_uniform()

    def _count_uniform(self) -> int:
        """How many random numbers one example's dropout takes: traced, not computed."""
        if not any(type(layer).__name__ == "Dropout" for layer in leaf_layers(self.network.model)):
            return 0

        def forward(x: Tensor, uniform: Tensor) -> Tensor:
            state = Pass(True, tf.ones([self.batch_size]), uniform)
            self.network.logits(x, self._parameters(), state)
            self._drawn = state.drawn
            return x

        unlimited = tf.TensorSpec([self.batch_size, None], tf.float32)
        tf.function(forward, autograph=False).get_concrete_function(self._input(), unlimited)
        return int(self._drawn)

    def _input(self) -> Any:
        return tf.TensorSpec([self.batch_size, *self.network.model.input_shape[1:]], tf.float32, name="x")

    def _parameters(self) -> dict[str, Tensor]:
        parameters = _split(self.weights.read_value(), self.trainable_specs)
        if self.statistics is not None:
            parameters |= _split(self.statistics.read_value(), self.statistic_specs)
        return parameters

    def train(self, inputs: Inputs) -> dict[str, Tensor]:
        """One step of the optimiser."""
        flat, count, sums = self._backward(inputs)
        self._step(flat / tf.maximum(count, 1.0), inputs)
        return sums

    def accumulate(self, inputs: Inputs) -> dict[str, Tensor]:
        """Add a part of a batch to the gradient."""
        flat, count, sums = self._backward(inputs)
        self.gathered.assign(self.gathered.read_value() + flat)
        self.count.assign(self.count.read_value() + count)
        return sums

    def apply(self, inputs: Inputs) -> dict[str, Tensor]:
        """One step of the optimiser with the gradient added up, which is zero afterwards."""
        gathered, count = self.gathered.read_value(), self.count.read_value()
        self._step(gathered / tf.maximum(count, 1.0), inputs)
        self.gathered.assign(tf.fill(gathered.shape, inputs["zero"][0]))
        self.count.assign(tf.fill(count.shape, inputs["zero"][0]))
        return {"done": inputs["zero"]}

    def _backward(self, inputs: Inputs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sum of the weighted gradients, how many examples count, and the sums that are reported."""
        weight = inputs["weight"]
        mask = tf.cast(weight > 0.0, tf.float32)
        state = Pass(True, mask, inputs.get("uniform"))
        parameters = self._parameters()
        moved = [parameters[spec.name] for spec in self.trainable_specs]
        with tf.GradientTape() as tape:
            tape.watch(moved)
            logits = self.network.logits(inputs["x"], parameters, state)
        loss = loss_value(self.loss, logits, inputs["y"], label_smoothing=self.label_smoothing)
        seed = loss.gradient * weight[:, tf.newaxis]
        gradients = tape.gradient(logits, moved, output_gradients=seed)
        if self.statistics is not None:
            new = self.network.statistics(state, parameters)
            self.statistics.assign(tf.concat([new[spec.name] for spec in self.statistic_specs], axis=0))
        sums = {"loss_sum": tf.reduce_sum(loss.value * weight), "weight_sum": tf.reduce_sum(weight)}
        return _flat(gradients), tf.reduce_sum(mask, keepdims=True), sums

    def _step(self, gradient: Tensor, inputs: Inputs) -> None:
        w = self.weights.read_value()
        penalties = self.network.penalty_gradients(_split(w, self.trainable_specs))
        if penalties:
            parts = _split(gradient, self.trainable_specs)
            gradient = _flat([part + penalties.get(name, 0.0) for name, part in parts.items()])
        gradient += inputs["proximal_mu"] * (w - self.anchor.read_value()) + self.correction.read_value()
        if self.network.constraint.keep_zeros:
            gradient *= zero_mask(_split(self.anchor.read_value(), self.trainable_specs))
        before = State(tuple(slot.read_value() for slot in self.slots), self.decayed.read_value())
        w, after = self.rule.step(w, gradient, before, inputs["learning_rate"])
        self.weights.assign(w)
        for slot, value in zip(self.slots, after.slots, strict=True):
            slot.assign(value)
        if self.rule.slots == 2:
            self.decayed.assign(after.decayed)

    def evaluate(self, inputs: Inputs) -> dict[str, Tensor]:
        """Loss and probabilities with moving statistics and no dropout."""
        logits = self.network.logits(inputs["x"], self._parameters(), Pass(False))
        loss = loss_value(self.loss, logits, inputs["y"], label_smoothing=self.label_smoothing)
        return {
            "loss_sum": tf.reduce_sum(loss.value * inputs["weight"]),
            "probabilities": probabilities(logits),
        }

    def infer(self, inputs: Inputs) -> dict[str, Tensor]:
        """Probabilities alone."""
        logits = self.network.logits(inputs["x"], self._parameters(), Pass(False))
        return {"probabilities": probabilities(logits)}

    def get_weights(self, _inputs: Inputs) -> dict[str, Tensor]:
        """The flat vectors, in the order of the spec within each role."""
        result = {"trainable": tf.identity(self.weights.read_value())}
        if self.statistics is not None:
            result["statistics"] = tf.identity(self.statistics.read_value())
        return result

    def set_weights(self, inputs: Inputs) -> dict[str, Tensor]:
        """New weights, which are also FedProx's anchor; the correction becomes zero."""
        trainable = inputs["trainable"]
        self.weights.assign(trainable)
        self.anchor.assign(trainable)
        self.correction.assign(trainable - trainable)
        if self.statistics is not None:
            self.statistics.assign(inputs["statistics"])
        return {"done": tf.shape(trainable)}

    def set_correction(self, inputs: Inputs) -> dict[str, Tensor]:
        """SCAFFOLD's c - c_i."""
        self.correction.assign(inputs["correction"])
        return {"done": tf.shape(inputs["correction"])}

    def reset_optimizer(self, inputs: Inputs) -> dict[str, Tensor]:
        """Forget momentum. `zero` comes from outside so that no vector of zeros lies in the file."""
        gathered = (self.gathered, self.count) if self.accumulates else ()
        for variable in (*self.slots, self.decayed, *gathered):
            variable.assign(tf.fill(variable.shape, inputs["zero"][0]))
        return {"done": inputs["zero"]}

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by signature name."""
        number = tf.TensorSpec([1], tf.float32)
        batch = {
            "x": self._input(),
            "y": tf.TensorSpec([self.batch_size], tf.int32),
            "weight": tf.TensorSpec([self.batch_size], tf.float32),
        }
        weights = {"trainable": tf.TensorSpec(self.weights.shape, tf.float32)}
        if self.statistics is not None:
            weights["statistics"] = tf.TensorSpec(self.statistics.shape, tf.float32)
        step = {"learning_rate": number, "proximal_mu": number}
        drawn = dict(batch)
        if self.uniform_columns:
            drawn["uniform"] = tf.TensorSpec([self.batch_size, self.uniform_columns], tf.float32)
        if self.accumulates:
            training = {
                "accumulate": _concrete(self.accumulate, drawn),
                "apply": _concrete(self.apply, step | {"zero": number}),
            }
        else:
            training = {"train": _concrete(self.train, drawn | step)}
        return training | {
            "evaluate": _concrete(self.evaluate, batch),
            "infer": _concrete(self.infer, {"x": self._input()}),
            "get_weights": _concrete(self.get_weights, {}),
            "set_weights": _concrete(self.set_weights, weights),
            "set_correction": _concrete(self.set_correction, {"correction": weights["trainable"]}),
            "reset_optimizer": _concrete(self.reset_optimizer, {"zero": number}),
        }


def _concrete(method: Callable[[Inputs], Any], inputs: Mapping[str, Any]) -> Any:
    """A concrete function whose inputs carry these names in the TFLite signature."""
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()}
    # without autograph: nothing here branches on a tensor, and rewriting all functions takes seconds
    return tf.function(lambda **tensors: method(tensors), autograph=False).get_concrete_function(**named)


def _variable(name: str, size: int) -> Any:
    return tf.Variable(tf.zeros([size]), name=name, trainable=False)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _split(flat: Tensor, specs: Sequence[Any]) -> dict[str, Tensor]:
    parts = tf.split(flat, [spec.size for spec in specs])
    return {spec.name: tf.reshape(part, spec.shape) for spec, part in zip(specs, parts, strict=True)}
