"""What training on a device is, whichever engine does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.spec import ModelSpec, Weights
from edge_client.wire.evaluation import EvaluationSums

if TYPE_CHECKING:
    from edge_client.data.batches import Batch

FloatArray = npt.NDArray[np.float32]


class TrainingError(BrambleError, RuntimeError):
    """Training cannot go on; the message says what was met."""


@dataclass(frozen=True, slots=True)
class TrainSums:
    """What some steps of training add up to.

    Attributes:
        loss_sum: weighted sum of the examples' losses, each as it was before its own step.
        weight_sum: sum of the examples' weights; equal to `examples` without class weights.
        examples: how many examples were trained on, padding not counted.
        steps: steps of the optimiser.
    """

    loss_sum: float = 0.0
    weight_sum: float = 0.0
    examples: int = 0
    steps: int = 0

    def __add__(self, other: TrainSums) -> TrainSums:
        return TrainSums(
            self.loss_sum + other.loss_sum,
            self.weight_sum + other.weight_sum,
            self.examples + other.examples,
            self.steps + other.steps,
        )

    @property
    def loss(self) -> float | None:
        """Weighted mean loss; None without examples."""
        return self.loss_sum / self.weight_sum if self.weight_sum else None


class Trainer(Protocol):
    """One model in memory that can be trained, evaluated and read out."""

    @property
    def spec(self) -> ModelSpec:
        """The contract of the model."""

    def set_weights(self, weights: Weights) -> None:
        """Take these weights; they are also the anchor of the proximal term, and no correction applies."""

    def get_weights(self) -> dict[str, FloatArray]:
        """The weights, in the order of the spec."""

    def set_correction(self, correction: Weights) -> None:
        """Add this to every gradient until `set_weights`: SCAFFOLD's c - c_i, trainable tensors only."""

    def reset_optimizer(self) -> None:
        """Forget momentum and step counts."""

    def train(
        self,
        batches: Iterable[Batch],
        *,
        learning_rate: float,
        proximal_mu: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> TrainSums:
        """One step of the optimiser for each batch; `rng` draws dropout's masks."""

    def evaluate(self, batches: Iterable[Batch]) -> EvaluationSums:
        """Loss and counts over the examples with a weight above 0, each counted once."""

    def predict(self, inputs: FloatArray) -> FloatArray:
        """Probabilities [N, classes] for any number of preprocessed examples."""
