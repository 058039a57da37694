"""The rounds of a small federation in one process: the product's trainer, codec and aggregation, no network.

Every codec meets the same clients, the same first weights and the same order of examples, so that only what
the codec changes differs. Clients are trained one after the other in one interpreter; what they would keep,
their residual, is kept for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.codecs import Codec, Context, find_codec, for_steps
from benchmarks.codecs.codec import Tensors
from benchmarks.errors import BenchmarkError
from benchmarks.federation import Federation, Plan
from benchmarks.wire import cosine
from broker_server.program import every_example
from broker_server.strategies.fedavg import weighted_mean
from compression.spec import SpecError, Weights, check_weights
from compression.updates import CodecError, pack_model
from edge_client.data import LocalData, batches
from edge_client.training import LiteRTTrainer, TrainingError

Step = Callable[[float], None]  # told what share of a round is behind


@dataclass(frozen=True, slots=True)
class Course:
    """How one run went, a value a round: what every client sent and got since the round before.

    Attributes:
        accuracies: of the weights that the clients hold after the round, on the held-out examples.
        bytes_up: of one client's payload, the mean over the clients.
        bytes_down: of the step that all clients are sent.
        start_bytes: of the first weights, which every client is sent once.
        likeness: cosine between a client's update and what was sent for it, the mean over clients and rounds.
        problem: why the run ended early; empty if it did not.
    """

    accuracies: tuple[float, ...]
    bytes_up: tuple[float, ...]
    bytes_down: tuple[int, ...]
    start_bytes: int
    likeness: float
    problem: str = ""


def find_pair(name: str) -> tuple[Codec, Codec]:
    """``small`` is for both directions, ``small/float32`` for up and down."""
    up, _, down = name.partition("/")
    return find_codec(up), for_steps(find_codec(down or up))


def run_federation(fleet: Federation, codec: str, plan: Plan, step: Step = lambda _share: None) -> Course:
    """Train for all rounds with a codec, or until it fails; `step` is called after each training."""
    run = _Run(fleet, find_pair(codec), plan)
    problem = ""
    try:
        for number in range(1, plan.rounds + 1):
            run.round(number, step)
    except (TrainingError, CodecError, SpecError) as exc:
        problem = f"round {len(run.accuracies) + 1}: {exc}"
    return Course(
        accuracies=tuple(run.accuracies),
        bytes_up=tuple(run.bytes_up),
        bytes_down=tuple(run.bytes_down),
        start_bytes=len(pack_model(fleet.weights)),
        likeness=float(np.mean(run.likenesses)) if run.likenesses else math.nan,
        problem=problem,
    )


class _Run:
    """The state of a run: the weights that all hold, and the residuals of every client and of the server."""

    def __init__(self, fleet: Federation, codecs: tuple[Codec, Codec], plan: Plan) -> None:
        self._fleet = fleet
        self._up, self._down = codecs
        self._plan = plan
        self._trainer = LiteRTTrainer(fleet.bundle)
        self._weights: Weights = fleet.weights
        self._owed: dict[int, Tensors | None] = dict.fromkeys(range(len(fleet.clients)))
        self._server_owes: Tensors | None = None
        self._context = Context(fleet.bundle.spec.tensors, fleet.digest)
        self.accuracies: list[float] = []
        self.bytes_up: list[float] = []
        self.bytes_down: list[int] = []
        self.likenesses: list[float] = []

    def round(self, number: int, step: Step) -> None:
        """Train all clients, aggregate, send the step, evaluate."""
        context = replace(self._context, round_number=number)
        updates: list[tuple[Weights, int]] = []
        payloads: list[int] = []
        for client, data in enumerate(self._fleet.clients):
            rng = np.random.default_rng([self._fleet.seed, number, client])
            delta = self._train(data, rng)
            payload, self._owed[client] = self._up.send(delta, self._owed[client], context, rng)
            sent = self._up.decode(payload, context)
            self.likenesses.append(cosine(delta, sent))
            updates.append((sent, len(data.train_index)))
            payloads.append(len(payload))
            step(1 / len(self._fleet.clients))
        mean = weighted_mean(updates)
        rng = np.random.default_rng([self._fleet.seed, number, len(updates)])
        payload, self._server_owes = self._down.send(mean, self._server_owes, context, rng)
        moved = self._down.decode(payload, context)
        weights = {name: array + moved[name] for name, array in self._weights.items()}
        check_weights(weights, self._trainer.spec)
        self._weights = weights
        accuracy = self._accuracy()
        self.bytes_up.append(float(np.mean(payloads)))
        self.bytes_down.append(len(payload))
        self.accuracies.append(accuracy)

    def _train(self, data: LocalData, rng: np.random.Generator) -> Tensors:
        trainer = self._trainer
        trainer.set_weights(self._weights)
        trainer.reset_optimizer()
        for _ in range(self._plan.epochs):
            epoch = batches(data, data.train_index, trainer.spec, rng=rng, augment=True)
            trainer.train(epoch, learning_rate=self._plan.learning_rate, rng=rng)
        local = trainer.get_weights()
        return {name: local[name] - array for name, array in self._weights.items()}

    def _accuracy(self) -> float:
        self._trainer.set_weights(self._weights)
        test = self._fleet.test
        sums = self._trainer.evaluate(batches(test, every_example(test), self._trainer.spec))
        if sums.accuracy is None:
            raise BenchmarkError("no held-out example could be read: there is nothing to measure accuracy on")
        return sums.accuracy
