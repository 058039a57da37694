"""The rounds of one strategy in one process: the server's strategy, the devices' training and coding.

Clients are trained one after the other in one interpreter; what devices would keep is kept for each. Every
strategy meets the same clients, first weights and order of examples. With a strategy that has a buffer the
clients take their turns by a clock that is simulated: a training takes as long as it has steps and ten more,
times a factor from 1 to 4 that is drawn for each client.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.federation import Federation, Plan
from benchmarks.judge import Judge
from broker_server.rounds.policy import LatePolicy
from broker_server.strategies import ClientUpdate, Fleet, State
from broker_server.strategies.base import Strategy
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.scaffold import CONTROL_SLOT
from compression.spec import SpecError, Weights, check_weights
from compression.updates import PROFILES, CodecError, decode_update, with_feedback
from edge_client.coding import Coder
from edge_client.data import LocalData
from edge_client.training import LiteRTTrainer, TrainingError
from edge_client.training.local import train_locally
from edge_client.training.scaffold import correction, no_variate
from edge_client.wire.rounds import TrainingPlan
from edge_client.wire.variates import variate_digest

Step = Callable[[float], None]  # told what share of a round is behind
SLOWEST = 4.0  # times the fastest, in the simulated clock
TRANSFER_STEPS = 10.0  # what sending and evaluating take in it, in steps of training


@dataclass(frozen=True, slots=True)
class Course:
    """How one run went: a value for each round's worth of trainings, as many as there are clients.

    Attributes:
        accuracies: of the global weights on the held-out examples; none where they are no whole model.
        own: on all clients' own validation examples together, by the weights that each client uses.
        bytes_up: payloads of all clients together.
        bytes_down: of the steps, to one client each.
        tuned: as `own`, after each client has trained on for itself; None if it was not asked for.
        problem: why the run ended early; empty if it did not.
    """

    accuracies: tuple[float, ...]
    own: tuple[float, ...]
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]
    tuned: float | None = None
    problem: str = ""


@dataclass(slots=True, eq=False)
class Client:
    """What one device would keep."""

    data: LocalData
    residual: Weights | None = None
    variate: Weights | None = None
    personal: Weights = field(default_factory=dict)


@dataclass(slots=True)
class Server:
    """What the server would keep: the weights and the control variate as all hold them, and what it owes."""

    weights: Weights
    control: Weights
    state: State = field(default_factory=dict)
    owed: Weights | None = None
    control_owed: Weights | None = None
    version: int = 0


def run_strategy(
    fleet: Federation,
    strategy: Strategy,
    plan: Plan,
    *,
    codec: str = "safe",
    fine_tune: int = 0,
    step: Step = lambda _share: None,
) -> Course:
    """Train for as many rounds' worth of trainings as the plan says, or until it fails."""
    run = _Run(fleet, strategy, plan, codec, step)
    problem, tuned = "", None
    try:
        for _ in run.buffered() if strategy.BUFFERED else run.in_step():
            run.measure()
        tuned = run.fine_tuned(fine_tune) if fine_tune else None
    except (TrainingError, CodecError, SpecError) as exc:
        problem = f"after {len(run.own)} rounds: {exc}"
    return Course(
        accuracies=tuple(run.accuracies),
        own=tuple(run.own),
        bytes_up=tuple(run.bytes_up),
        bytes_down=tuple(run.bytes_down),
        tuned=tuned,
        problem=problem,
    )


class _Run:
    def __init__(self, fleet: Federation, strategy: Strategy, plan: Plan, codec: str, step: Step) -> None:
        spec = fleet.bundle.spec
        self._fleet, self._strategy, self._plan, self._step = fleet, strategy, plan, step
        self._personal = strategy.personal(spec)
        self._coder = Coder.of(spec.without(self._personal), fleet.digest, codec, 1)
        self._trainer = LiteRTTrainer(fleet.bundle)
        self._judge = Judge(self._trainer, fleet)
        self._clients = [Client(data) for data in fleet.clients]
        self._server = Server(fleet.weights, no_variate(spec))
        self._training = TrainingPlan(
            epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            codec=codec,
            proximal_mu=strategy.proximal_mu,
        )
        self._all = Fleet(
            examples=sum(len(data.train_index) for data in fleet.clients),
            devices=len(fleet.clients),
            statistics=frozenset(t.name for t in spec.tensors if t.role == "statistic"),
            optimizer=plan.optimizer,
        )
        self._up = self._down = 0
        self.accuracies: list[float] = []
        self.own: list[float] = []
        self.bytes_up: list[int] = []
        self.bytes_down: list[int] = []

    # ---- who trains when ----

    def in_step(self) -> Iterator[None]:
        """All clients in every round."""
        for number in range(1, self._plan.rounds + 1):
            before = self._server.weights, self._server.control
            self._aggregate([self._update(client, *before, number) for client in self._clients], number)
            yield

    def buffered(self) -> Iterator[None]:
        """Each client whenever it is free; a step of the server for each full buffer."""
        strategy = self._strategy
        if not isinstance(strategy, FedBuff):
            raise TypeError(f"{strategy.TAG} has no buffer")
        late = LatePolicy(True, strategy.max_staleness, strategy.exponent)
        queue: list[tuple[float, int, int, Weights]] = []  # done at, client, version begun from, its weights
        paces = np.random.default_rng([self._fleet.seed, 1]).uniform(1.0, SLOWEST, len(self._clients))

        def begin(client: int, now: float) -> None:
            steps = self._plan.epochs * len(self._clients[client].data.train_index) / self._plan.batch
            done = now + (steps + TRANSFER_STEPS) * paces[client]
            heapq.heappush(queue, (done, client, self._server.version, self._server.weights))

        for client in range(len(self._clients)):
            begin(client, 0.0)
        buffer: list[ClientUpdate] = []
        idle: list[int] = []
        for number in range(1, self._plan.rounds * len(self._clients) + 1):
            now, client, version, weights = heapq.heappop(queue)
            update = self._update(self._clients[client], weights, self._server.control, number)
            idle.append(client)
            staleness = self._server.version - version
            if late.accepts(staleness):
                buffer.append(replace(update, discount=late.discount(staleness)))
            if len(buffer) >= strategy.buffer or not queue:
                self._aggregate(buffer, number)
                buffer = []
                for free in idle:
                    begin(free, now)
                idle = []
            if number % len(self._clients) == 0:
                yield

    # ---- one training, one step ----

    def _update(self, client: Client, weights: Weights, control: Weights, number: int) -> ClientUpdate:
        trainer, spec = self._trainer, self._trainer.spec
        base = {**weights, **client.personal}
        variate = client.variate or no_variate(spec)
        trainer.set_weights(base)
        rng = np.random.default_rng([self._fleet.seed, number, self._clients.index(client)])
        added = correction(control, variate) if self._strategy.CONTROL else None
        sums = train_locally(trainer, client.data, self._training, rng, correction=added)
        local = trainer.get_weights()
        check_weights(local, spec)
        delta = {name: local[name] - base[name] for name in base}
        coder = replace(self._coder, round_number=number)
        payload, client.residual = coder.update(delta, client.residual)
        client.personal = {name: local[name] for name in self._personal}
        self._up += len(payload)
        change = None
        if self._strategy.CONTROL:
            coded, client.variate = coder.variate(
                control, variate, delta, steps=sums.steps, learning_rate=self._plan.learning_rate
            )
            self._up += len(coded)
            change = self._decoded(coded, control=True)
        self._step(1 / len(self._clients))
        return ClientUpdate(self._decoded(payload), len(client.data.train_index), sums.steps, 1.0, change)

    def _decoded(self, payload: bytes, *, control: bool = False) -> Weights:
        spec, digest = self._coder.spec, self._coder.bundle_digest
        tensors = spec.trainable.tensors if control else spec.tensors
        digest = variate_digest(digest) if control else digest
        return decode_update(payload, tensors, model_digest=digest).delta

    def _aggregate(self, updates: list[ClientUpdate], number: int) -> None:
        server = self._server
        before = server.state.get(CONTROL_SLOT)
        server.state, step = self._strategy.aggregate(server.state, updates, self._all)
        server.weights, server.owed = self._sent(server.weights, step, server.owed, number)
        check_weights(server.weights, self._trainer.spec)
        server.version += 1
        if (after := server.state.get(CONTROL_SLOT)) is not None:
            change = {name: a - before[name] if before else a for name, a in after.items()}
            server.control, server.control_owed = self._sent(
                server.control, change, server.control_owed, number
            )

    def _sent(
        self, held: Weights, step: Weights, owed: Weights | None, number: int
    ) -> tuple[Weights, Weights]:
        """What all hold after a coded step, and what the server owes then."""
        tensors = tuple(t for t in self._trainer.spec.tensors if t.name in step)
        encoded, owed = with_feedback(
            step,
            owed,
            PROFILES[self._training.codec],
            model_digest=self._fleet.digest,
            round_number=number,
            tensors=tensors,
        )
        self._down += len(encoded.payload)
        moved = {name: held[name] + array for name, array in encoded.sent.items()}
        return {**held, **moved}, owed

    # ---- measuring ----

    def measure(self) -> None:
        """Note where the run stands."""
        if not self._personal:
            self.accuracies.append(self._judge.held_out(self._server.weights))
        self.own.append(self._judge.own([{**self._server.weights, **c.personal} for c in self._clients]))
        self.bytes_up.append(self._up)
        self.bytes_down.append(self._down)
        self._up = self._down = 0

    def fine_tuned(self, epochs: int) -> float:
        """Accuracy on the clients' own examples after each has trained on alone."""
        plan = replace(self._training, epochs=epochs, proximal_mu=0.0)
        tuned = []
        for number, client in enumerate(self._clients):
            self._trainer.set_weights({**self._server.weights, **client.personal})
            rng = np.random.default_rng([self._fleet.seed, 0, number])
            train_locally(self._trainer, client.data, plan, rng)
            tuned.append(self._trainer.get_weights())
        return self._judge.own(tuned)
