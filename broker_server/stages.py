"""The stages of a run as they touch the disk: what a task says, and what becomes of its results.

No network here. `broker_server.server` publishes what `make_task` returns and calls `close` when the
round machine says so; everything that `close` changes becomes durable in one transaction.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

from broker_server.checks import check_result
from broker_server.config import ServerConfig
from broker_server.program import Evaluator, compile_program, image_input
from broker_server.records import ClientRecord, RoundRecord
from broker_server.rounds.machine import CloseStage, RunState, Stage
from broker_server.store.ledger import Ledger
from broker_server.strategies.fedavg import weighted_mean
from broker_server.versions import Versions
from compression.errors import BrambleError
from compression.records import dumps, loads
from compression.spec import TableInput, TrainableBundle, Weights
from compression.updates import PROFILES, decode_update
from edge_client.data import ColumnStatistics, table_input
from edge_client.data.catalogue import order_classes
from edge_client.data.column_statistics import MAX_STATISTICS_BYTES
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.evaluation import MAX_CLASSES, EvaluationSums
from edge_client.wire.messages import Hello, Result, Task, TrainingPlan

log = logging.getLogger(__name__)


class RunError(BrambleError, RuntimeError):
    """The run cannot go on; the message says what to change."""


class Stages:
    """The durable side of one run.

    Attributes:
        ledger: what happened.
        artefacts: bundles, weights, steps and updates by content hash.
    """

    def __init__(self, config: ServerConfig) -> None:
        folder = Path(config.state)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # updates say something about their examples
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.artefacts = BlobStore(folder / "artefacts")
        self._config = config
        self._bundle: TrainableBundle | None = None
        self._ref: BlobRef | None = None
        self._versions: Versions | None = None
        self._evaluator: Evaluator | None = None
        if self.ledger.fact("run") is None:
            with self.ledger.transaction():
                self.ledger.set_fact("run", secrets.token_hex(8))
                self.ledger.set_fact("plan", _plan_of(config))
        elif self.ledger.fact("plan") != _plan_of(config):
            raise RunError(
                f"this run began with other settings ({self.ledger.fact('plan')}): put them back, "
                f"or begin a new run by moving {folder} away"
            )
        if digest := self.ledger.fact("bundle"):
            data = self.artefacts.path(digest).read_bytes()
            self._adopt(TrainableBundle.from_bytes(data), BlobRef.of(data))

    # ---- where the run stands ----

    @property
    def plan(self) -> tuple[Stage, ...]:
        """All stages of the run."""
        first = (Stage("statistics"),) if self._config.model.kind == "table" else ()
        rounds = tuple(Stage("train", number) for number in range(1, self._config.rounds.rounds + 1))
        return (*first, *rounds, Stage("evaluate", self._config.rounds.rounds))

    def resume(self, now: float) -> RunState:
        """The state of the round machine as the ledger knows it."""
        state = RunState(stages=self.plan, index=self.index, since=now)
        if state.stage is None:
            return replace(state, phase="finished")
        reported = frozenset(self.ledger.results(state.index))
        last = self.ledger.last_task()
        if last is None or last.stage != state.index or last.closed:
            return replace(state, reported=reported)
        cohort = frozenset(last.task.cohort)
        return replace(
            state,
            phase="working",
            number=last.task.number,
            cohort=cohort,
            reported=reported,
            failed=self.ledger.failures(last.task.number),
            away_since=dict.fromkeys(cohort, now),
        )

    @property
    def index(self) -> int:
        """The stage at work: the number of those that are closed."""
        return int(self.ledger.fact("stages_closed") or 0)

    @property
    def bundle(self) -> TrainableBundle:
        """The training program; raise `RunError` before there is one."""
        if self._bundle is None:
            raise RunError("the training program is not compiled yet")
        return self._bundle

    @property
    def bundle_ref(self) -> BlobRef:
        """The training program's manifest; raise `RunError` before there is one."""
        if self._ref is None:
            raise RunError("the training program is not compiled yet")
        return self._ref

    @property
    def versions(self) -> Versions:
        """The fleet's weights; raise `RunError` before there are any."""
        if self._versions is None:
            raise RunError("the training program is not compiled yet")
        return self._versions

    @property
    def parameters(self) -> int:
        """Number of values in an update; 0 before the program is compiled."""
        return self._bundle.spec.parameters if self._bundle else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's classes; empty before the program is compiled."""
        return self._bundle.spec.classes if self._bundle else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the fleet's tables; empty for pictures and before they are known."""
        if self._bundle and isinstance(self._bundle.spec.input, TableInput):
            return self._bundle.spec.input.columns
        last = self.ledger.last_task()
        return last.task.columns if last else ()

    def evaluate(self, weights: Weights) -> EvaluationSums | None:
        """How weights do on the server's held-out examples; None without any."""
        if self._config.data.evaluation is None:
            return None
        if self._evaluator is None:
            self._evaluator = Evaluator(self.bundle, self._config.data.evaluation)
        return self._evaluator(weights)

    # ---- starting a stage ----

    def needs_program(self, stage: Stage) -> bool:
        """Whether the training program must be compiled before this stage can start."""
        return stage.kind != "statistics" and self._bundle is None

    def compile(self, hellos: Mapping[str, Hello]) -> None:
        """Compile the training program for the classes and columns that the fleet has."""
        input = self._table_input() if self._config.model.kind == "table" else image_input(self._config.model)
        classes = self._config.model.classes or order_classes(
            {label for hello in hellos.values() for label in hello.data.counts}
        )
        if not 2 <= len(classes) <= MAX_CLASSES:
            raise RunError(
                f"the devices have {len(classes)} classes between them, a model takes 2 to {MAX_CLASSES}"
            )
        bundle, weights = compile_program(self._config.model, input, classes)
        ref = self.artefacts.put(bundle.to_bytes())
        with self.ledger.transaction():
            self.ledger.set_fact("bundle", ref.digest)
            self._adopt(bundle, ref)
            self.versions.begin(weights)

    def make_task(self, stage: Stage, cohort: tuple[str, ...], columns: tuple[str, ...]) -> Task:
        """A task with a new number, written down."""
        task = replace(self.idle_task(), round=stage.round, cohort=cohort)
        if stage.kind == "statistics":
            task = replace(task, kind="statistics", columns=columns)
        else:
            rounds = self._config.rounds
            training = TrainingPlan(
                epochs=rounds.epochs,
                learning_rate=rounds.learning_rate,
                codec=self._config.codec.up,
                balance=rounds.balance,
                seed=self._config.model.seed,
            )
            task = replace(
                task,
                kind=stage.kind,
                bundle=self._ref,
                weights=self.versions.reference(),
                training=training if stage.kind == "train" else None,
            )
        self.ledger.keep_task(task, self.index, time.time())
        return task

    def idle_task(self) -> Task:
        """The task that ends a run.

        Numbers only grow, also after the ledger was lost: they are never below the time in seconds.
        """
        last = self.ledger.last_task()
        number = max(int(time.time()), last.task.number + 1 if last else 0)
        return Task(fleet=self._config.fleet, run=self.ledger.fact("run") or "", number=number, kind="idle")

    def broadcast(self, task: Task) -> list[BlobRef]:
        """What most of the cohort will want: program and whole model at first, then the newest step."""
        if task.bundle is None or task.weights is None:
            return []
        if task.weights.steps:
            return [task.weights.steps[-1].blob]
        return [task.bundle, task.weights.full] if task.weights.version == 0 else [task.weights.full]

    # ---- closing a stage ----

    def check(self, task: Task, result: Result, payload: bytes) -> None:
        """Raise `RefusedError` unless a result can be aggregated."""
        spec = self._bundle.spec if self._bundle else None
        check_result(task, result, payload, spec, max_examples=self._config.max_examples)

    def accept(self, task: Task, device: str, result: Result, payload: bytes, now: float) -> None:
        """Make a checked result durable."""
        if payload:
            self.artefacts.put(payload)
        self.ledger.keep_result(task.number, device, self.index, result, now)

    def close(
        self, command: CloseStage, clients: Mapping[str, ClientRecord], dropped_bytes: int, now: float
    ) -> RoundRecord | None:
        """Aggregate a stage; the record of its round, or of the last one for an evaluation."""
        results = self.ledger.results(self.index)
        record: RoundRecord | None = None
        if command.stage.kind == "train":
            record = replace(self._round_record(command, clients, now), dropped_bytes_down=dropped_bytes)
            record = self._close_round(command, record, results)
        else:
            with self.ledger.transaction():
                if command.stage.kind == "statistics":
                    self.ledger.set_fact("statistics", self._merged_statistics(results).digest)
                else:
                    self._complete_round(command.stage.round, results)
                    record = self._add_traffic(command.stage.round, clients, dropped_bytes)
                self._mark_closed(command)
        self._prune()
        return record

    def _round_record(
        self, command: CloseStage, clients: Mapping[str, ClientRecord], now: float
    ) -> RoundRecord:
        last = self.ledger.last_task()
        started = last.published if last else now
        return RoundRecord(
            round=command.stage.round,
            version=self.versions.latest.version + 1,
            started=started,
            seconds=max(0.0, now - started),
            clients=clients,
            dropped=command.dropped,
        )

    def _close_round(
        self, command: CloseStage, record: RoundRecord, results: Mapping[str, Result]
    ) -> RoundRecord:
        profile = PROFILES[self._config.codec.down]
        version, weights = self.versions.advance(self._mean_update(results), profile, record.round)
        record = replace(record, evaluation=self.evaluate(weights))
        with self.ledger.transaction():
            self._complete_round(record.round - 1, results)
            self.ledger.keep_round(record.round, record)
            self.versions.commit(version, weights)
            self._mark_closed(command)
        return record

    def _mark_closed(self, command: CloseStage) -> None:
        self.ledger.close_task(command.number)
        self.ledger.set_fact("stages_closed", str(self.index + 1))

    def _mean_update(self, results: Mapping[str, Result]) -> Weights:
        return weighted_mean(self._updates(results))

    def _updates(self, results: Mapping[str, Result]) -> Iterator[tuple[Weights, int]]:
        """One decoded update at a time, in order of the devices' names: the sum is the same every time."""
        hellos = self.ledger.devices()
        for device, result in results.items():
            if result.payload is None or result.training is None:
                raise RunError(f"the ledger counts a result of {device} without an update")
            payload = self.artefacts.read(result.payload)
            update = decode_update(payload, self.bundle.spec.tensors, model_digest=self.bundle_ref.digest)
            said = hellos[device].data.examples  # what a device claims now cannot exceed what it said first
            yield update.delta, max(1, min(result.training.examples, said, self._config.max_examples))

    def _complete_round(self, number: int, results: Mapping[str, Result]) -> RoundRecord | None:
        """Devices evaluate what they receive: a round's results complete the record of the one before."""
        sums = [result.evaluation for result in results.values() if result.evaluation is not None]
        record = self.ledger.round(number, RoundRecord)
        if record is None or not sums:
            return record
        completed = replace(record, federated=reduce(add, sums))
        self.ledger.keep_round(number, completed)
        return completed

    def _add_traffic(
        self, number: int, clients: Mapping[str, ClientRecord], dropped_bytes: int
    ) -> RoundRecord | None:
        """The last round's step goes out with the evaluation: its bytes belong to that round."""
        record = self.ledger.round(number, RoundRecord)
        if record is None:
            return None
        parts = {
            name: replace(
                part,
                bytes_up=part.bytes_up + clients[name].bytes_up,
                bytes_down=part.bytes_down + clients[name].bytes_down,
            )
            if name in clients
            else part
            for name, part in record.clients.items()
        }
        extra = dropped_bytes + sum(
            client.bytes_down for name, client in clients.items() if name not in record.clients
        )
        record = replace(record, clients=parts, dropped_bytes_down=record.dropped_bytes_down + extra)
        self.ledger.keep_round(number, record)
        return record

    def _merged_statistics(self, results: Mapping[str, Result]) -> BlobRef:
        parts = [
            loads(ColumnStatistics, self.artefacts.read(result.payload), max_bytes=MAX_STATISTICS_BYTES)
            for result in results.values()
            if result.payload is not None
        ]
        return self.artefacts.put(dumps(reduce(add, parts)))

    def _prune(self) -> None:
        """Updates are of no use once they are in the mean, nor are versions that nobody can step from."""
        kept = [digest for digest in (self.ledger.fact("bundle"), self.ledger.fact("statistics")) if digest]
        if self._versions is not None:
            kept += self._versions.files()
        self.artefacts.keep_only(kept)

    # ---- the program ----

    def _adopt(self, bundle: TrainableBundle, ref: BlobRef) -> None:
        self._bundle = bundle
        self._ref = ref
        self._versions = Versions(self.ledger, self.artefacts, bundle.spec, ref.digest)

    def _table_input(self) -> TableInput:
        digest = self.ledger.fact("statistics")
        if digest is None:
            raise RunError("the column statistics are not merged yet")
        data = self.artefacts.path(digest).read_bytes()
        merged = loads(ColumnStatistics, data, max_bytes=MAX_STATISTICS_BYTES)
        return table_input(merged, self._config.model.scaling)


def _plan_of(config: ServerConfig) -> str:
    """What must stay the same from the first start of a run to its end, in words for people."""
    model, rounds = config.model, config.rounds
    size = f" {model.height}x{model.width}x{model.channels}" if model.kind == "image" else ""
    return f"{model.name}, {model.kind}{size}, {rounds.rounds} rounds, {model.optimizer}, seed {model.seed}"
