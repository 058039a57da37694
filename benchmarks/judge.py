"""How a simulated federation does: on examples that no client has, and on what the clients kept back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from benchmarks.federation import Federation
from broker_server.program import every_example
from compression.spec import Weights
from edge_client.data import LocalData, batches
from edge_client.training import LiteRTTrainer, TrainingError
from edge_client.wire.evaluation import EvaluationSums


class Judge:
    """Accuracies, by the trainer of the run; what it holds is replaced.

    Raises:
        TrainingError: from both, if there is no example to measure on.
    """

    def __init__(self, trainer: LiteRTTrainer, fleet: Federation) -> None:
        self._trainer = trainer
        self._fleet = fleet

    def held_out(self, weights: Weights) -> float:
        """Of weights on the held-out examples."""
        test = self._fleet.test
        return _accuracy([self._sums(weights, test, every_example(test))])

    def own(self, weights: Sequence[Weights]) -> float:
        """Of each client's weights on its own validation examples, all examples counting alike."""
        pairs = zip(weights, self._fleet.clients, strict=True)
        kept = [(each, data) for each, data in pairs if len(data.validation_index)]
        return _accuracy([self._sums(each, data, data.validation_index) for each, data in kept])

    def _sums(self, weights: Weights, data: LocalData, index: npt.NDArray[np.integer]) -> EvaluationSums:
        self._trainer.set_weights(weights)
        return self._trainer.evaluate(batches(data, index, self._trainer.spec))


def _accuracy(sums: Sequence[EvaluationSums]) -> float:
    total = reduce(add, sums).accuracy if sums else None
    if total is None:
        raise TrainingError("there is no example to measure accuracy on")
    return total
