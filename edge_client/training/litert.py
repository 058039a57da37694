"""Training in the TFLite runtime: the bundle's program does the work, this class feeds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, TrainableBundle, Weights, check_weights
from edge_client.runtime import make_interpreter
from edge_client.training.trainer import FloatArray, TrainingError, TrainSums
from edge_client.wire.evaluation import EvaluationSums

if TYPE_CHECKING:
    from edge_client.data.batches import Batch

Role = Literal["trainable", "statistic"]


class LiteRTTrainer:
    """A `Trainer` on ai-edge-litert or tflite-runtime, whichever is installed.

    The program holds no weights: `set_weights` comes before anything else.

    Raises:
        TrainingError: the bundle's program is not one this runtime can run.
    """

    def __init__(self, bundle: TrainableBundle, *, threads: int = 1) -> None:
        self.spec = bundle.spec
        try:
            self._interpreter = make_interpreter(bundle.tflite, threads=threads)
            self._signatures = self._interpreter.get_signature_list()
            self._runners = {name: self._interpreter.get_signature_runner(name) for name in self._signatures}
        except (ValueError, RuntimeError) as exc:
            raise TrainingError(f"model {bundle.spec.name!r} does not run here: {exc}") from exc
        self._ready = False
        self._uniform: tuple[int, ...] | None = None
        self._step = "accumulate" if "accumulate" in self._runners else "train"
        details = self._runners[self._step].get_input_details()
        self._rows = int(details["x"]["shape"][0])  # fewer than the batch where gradients are added up
        if "uniform" in details:
            self._uniform = tuple(int(extent) for extent in details["uniform"]["shape"])
        self.reset_optimizer()

    def set_weights(self, weights: Weights) -> None:
        """Take these weights; they are also the anchor of the proximal term, and no correction applies."""
        check_weights(weights, self.spec)
        arguments = {"trainable": self._flat(weights, "trainable")}
        if "statistics" in self._signatures["set_weights"]["inputs"]:
            arguments["statistics"] = self._flat(weights, "statistic")
        self._call("set_weights", **arguments)
        self._ready = True

    def get_weights(self) -> dict[str, FloatArray]:
        """The weights, in the order of the spec."""
        self._need_weights()
        flat = self._call("get_weights")
        parts = dict(self._parts(flat["trainable"], "trainable"))
        if "statistics" in flat:
            parts |= dict(self._parts(flat["statistics"], "statistic"))
        return {tensor.name: parts[tensor.name] for tensor in self.spec.tensors}

    def set_correction(self, correction: Weights) -> None:
        """Add this to every gradient until `set_weights`: SCAFFOLD's c - c_i, trainable tensors only."""
        self._need_weights()
        for tensor in self._tensors("trainable"):
            if tensor.name not in correction or correction[tensor.name].shape != tensor.shape:
                raise TrainingError(f"correction: {tensor.name} of shape {tensor.shape} is missing")
        self._call("set_correction", correction=self._flat(correction, "trainable"))

    def reset_optimizer(self) -> None:
        """Forget momentum and step counts."""
        self._call("reset_optimizer", zero=_number(0))

    def train(
        self,
        batches: Iterable[Batch],
        *,
        learning_rate: float,
        proximal_mu: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> TrainSums:
        """One step of the optimiser for each batch; `rng` draws dropout's masks.

        A batch of padding alone is no step. A loss that is not finite ends the training.
        """
        self._need_weights()
        if self._uniform is not None and rng is None:
            raise TrainingError(f"model {self.spec.name!r} has dropout: training it needs a random generator")
        step = {"learning_rate": _number(learning_rate), "proximal_mu": _number(proximal_mu)}
        total = TrainSums()
        for batch in batches:
            examples = int(np.count_nonzero(batch.weights))
            if not examples:
                continue
            loss_sum, weight_sum = self._train_batch(batch, step, rng)
            if not np.isfinite(loss_sum):
                raise TrainingError(
                    f"the loss is {loss_sum} after {total.steps} steps at learning rate {learning_rate}: "
                    "lower the learning rate or look for broken inputs"
                )
            total += TrainSums(loss_sum, weight_sum, examples, 1)
        return total

    def _train_batch(
        self, batch: Batch, step: dict[str, FloatArray], rng: np.random.Generator | None
    ) -> tuple[float, float]:
        loss_sum = weight_sum = 0.0
        for rows in self._pieces(batch.weights):
            arguments: dict[str, Any] = dict(step) if self._step == "train" else {}
            if self._uniform is not None and rng is not None:
                arguments["uniform"] = rng.random(self._uniform, dtype=np.float32)
            x, y, weight = batch.inputs[rows], batch.labels[rows], batch.weights[rows]
            sums = self._call(self._step, x=x, y=y, weight=weight, **arguments)
            loss_sum += float(sums["loss_sum"])
            weight_sum += float(sums["weight_sum"])
        if self._step == "accumulate":
            self._call("apply", zero=_number(0), **step)
        return loss_sum, weight_sum

    def _pieces(self, weights: FloatArray) -> Iterator[slice]:
        """The rows that the program takes at a time, as far as there are examples in them."""
        for start in range(0, len(weights), self._rows):
            rows = slice(start, start + self._rows)
            if weights[rows].any():
                yield rows

    def evaluate(self, batches: Iterable[Batch]) -> EvaluationSums:
        """Loss and counts over the examples with a weight above 0, each counted once."""
        self._need_weights()
        labels, scores, loss_sum = [], [], 0.0
        for batch in batches:
            for rows in self._pieces(batch.weights):
                real = batch.weights[rows] > 0
                x, y = batch.inputs[rows], batch.labels[rows]
                result = self._call("evaluate", x=x, y=y, weight=real.astype(np.float32))
                loss_sum += float(result["loss_sum"])
                labels.append(y[real])
                scores.append(result["probabilities"][real])
        if not labels:
            return EvaluationSums(0.0, (0,) * len(self.spec.classes) ** 2)
        return EvaluationSums.of(np.concatenate(labels), np.concatenate(scores), loss_sum)

    def predict(self, inputs: FloatArray) -> FloatArray:
        """Probabilities [N, classes] for any number of preprocessed examples."""
        self._need_weights()
        size = self._rows
        result = np.empty((len(inputs), len(self.spec.classes)), dtype=np.float32)
        padded = np.zeros((size, *self.spec.input.shape), dtype=np.float32)
        no_labels, no_weights = np.zeros(size, np.int32), np.zeros(size, np.float32)
        for start in range(0, len(inputs), size):
            chunk = inputs[start : start + size]
            padded[: len(chunk)] = chunk
            # by way of "evaluate", so that there is one memory arena for both: "infer" would bring its own
            sums = self._call("evaluate", x=padded, y=no_labels, weight=no_weights)
            result[start : start + size] = sums["probabilities"][: len(chunk)]
        return result

    def _need_weights(self) -> None:
        if not self._ready:
            raise TrainingError(f"model {self.spec.name!r} has no weights yet: call set_weights first")

    def _call(self, signature: str, **arguments: npt.ArrayLike) -> dict[str, Any]:
        try:
            return dict(self._runners[signature](**arguments))
        except (KeyError, ValueError, RuntimeError) as exc:
            raise TrainingError(f"model {self.spec.name!r}, {signature}: {exc}") from exc

    def _tensors(self, role: Role) -> Iterator[TensorSpec]:
        return (tensor for tensor in self.spec.tensors if tensor.role == role)

    def _flat(self, weights: Weights, role: Role) -> FloatArray:
        return np.concatenate([weights[tensor.name].ravel() for tensor in self._tensors(role)])

    def _parts(self, flat: FloatArray, role: Role) -> Iterator[tuple[str, FloatArray]]:
        start = 0
        for tensor in self._tensors(role):
            yield tensor.name, flat[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size


def _number(value: float) -> FloatArray:
    """A number as the program takes it: a vector of one, never a scalar (see its own description)."""
    return np.array([value], np.float32)
