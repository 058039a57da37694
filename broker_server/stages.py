"""The stages of a run as they touch the disk: what a task says, and what becomes of its results.

No network here. `broker_server.server` publishes what `make_task` returns and calls `close` when the
round machine says so; everything that `close` changes becomes durable in one transaction.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

from broker_server import clock
from broker_server.aggregation import Aggregation
from broker_server.calibrating import Calibrating
from broker_server.checks import check_result
from broker_server.codec_control import choose_codec
from broker_server.cohort.choosing import Choosing
from broker_server.config import AUTO, ServerConfig
from broker_server.decoded import DecodedResult
from broker_server.errors import RunError
from broker_server.fleet import ledger_path
from broker_server.frozen import CACHE, Frozen
from broker_server.program import Evaluator, compile_program, image_input
from broker_server.records import ClientRecord, RoundRecord
from broker_server.round_records import fine_tuning, with_evaluation, with_traffic
from broker_server.rounds.machine import CloseStage, RunState, Stage
from broker_server.rounds.policy import late_policy
from broker_server.run_plan import in_words, sparsity_of, stages_of, training_plan
from broker_server.store.ledger import Ledger, TaskRow
from broker_server.store.payloads import Payloads
from broker_server.versions import Versions
from compression.records import dumps, loads
from compression.sparsity import zero_share
from compression.spec import TableInput, TrainableBundle, Weights
from compression.updates import PROFILES
from edge_client.data import ColumnStatistics, DataSource, table_input
from edge_client.data.catalogue import order_classes
from edge_client.data.column_statistics import MAX_STATISTICS_BYTES
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.evaluation import MAX_CLASSES, EvaluationSums
from edge_client.wire.presence import Hello
from edge_client.wire.rounds import Result, Task

log = logging.getLogger(__name__)


FINE_TUNING = "fine_tuning"  # a fact in the ledger
CLOSING_BYTES = "closing_bytes_up"  # fact: what devices sent in the stages after the last round


class Stages:
    """The durable side of one run.

    Attributes:
        ledger: what happened.
        artefacts: bundles, weights, steps and large updates by content hash.
        payloads: what devices sent with the results of the stage at work.
        late: what becomes of late results.
        choosing: of the cohorts.
        calibrating: the stage in which devices measure ranges.
        frozen: of a transfer model.
    """

    def __init__(self, config: ServerConfig) -> None:
        folder = Path(config.state)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # updates say something about their examples
        self.ledger = Ledger(ledger_path(config))
        self.artefacts = BlobStore(folder / "artefacts")
        self.payloads = Payloads(self.ledger, self.artefacts)
        self._config = config
        self._plan = stages_of(config)
        self.late = late_policy(config)
        self.choosing = Choosing(config, self.ledger)
        self.calibrating = Calibrating(config, self.ledger, self.artefacts, self.payloads)
        self.frozen = Frozen(config, self.ledger, self.artefacts)
        self._aggregation: Aggregation | None = None
        self._bundle: TrainableBundle | None = None
        self._ref: BlobRef | None = None
        self._versions: Versions | None = None
        self._evaluator: Evaluator | None = None
        if self.ledger.fact("run") is None:
            with self.ledger.transaction():
                self.ledger.set_fact("run", secrets.token_hex(8))
                self.ledger.set_fact("plan", in_words(config))
        elif self.ledger.fact("plan") != in_words(config):
            raise RunError(
                f"this run began with other settings ({self.ledger.fact('plan')}): put them back, "
                f"or begin a new run by moving {folder} away"
            )
        if digest := self.ledger.fact("bundle"):
            data = self.artefacts.path(digest).read_bytes()
            self._adopt(TrainableBundle.from_bytes(data), BlobRef.of(data))

    # ---- where the run stands ----

    def resume(self, now: float) -> RunState:
        """The state of the round machine as the ledger knows it."""
        state = RunState(stages=self._plan, index=self.index, since=now)
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
    def aggregation(self) -> Aggregation:
        """The strategy at work; raise `RunError` before the program is compiled."""
        if self._aggregation is None:
            raise RunError("the training program is not compiled yet")
        return self._aggregation

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
        """How weights do on the server's held-out examples; None without any, or for a part of a model."""
        if self._config.data.evaluation is None or self.aggregation.personal:
            return None
        if self._evaluator is None:
            self._evaluator = Evaluator(
                self.bundle,
                DataSource.parse(self._config.data.evaluation),
                extractor=self.frozen.read,
                cache=Path(self._config.state) / CACHE if self.frozen.manifest else None,
            )
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
        made = self.frozen.compile(input, classes) or compile_program(self._config.model, input, classes)
        bundle, weights = made
        ref = self.artefacts.put(bundle.to_bytes())
        with self.ledger.transaction():
            self.ledger.set_fact("bundle", ref.digest)
            self._adopt(bundle, ref)
            self.versions.begin(weights)
            self.aggregation.state.begin()

    def make_task(self, stage: Stage, cohort: tuple[str, ...], columns: tuple[str, ...]) -> Task:
        """A task with a new number, written down."""
        task = replace(self.idle_task(), round=stage.round, cohort=cohort)
        if stage.kind == "statistics":
            task = replace(task, kind="statistics", columns=columns)
        elif stage.kind == "calibrate":
            plan = self.calibrating.plan(self.bundle.spec.whole, self.versions)
            extractor = self.frozen.manifest  # for the release: what no task names, devices throw away
            task = replace(task, kind="calibrate", bundle=self._ref, extractor=extractor, ranges=plan)
        else:
            trains = stage.kind == "train"
            task = replace(
                task,
                kind=stage.kind,
                bundle=self._ref,
                extractor=self.frozen.manifest,
                weights=self.versions.reference(),
                training=training_plan(self._config, stage, self._codec(self._config.codec.up)),
                control=self.aggregation.state.reference() if trains else None,
                personal=self.aggregation.personal,
                patient=trains and self.late.counts,
            )
        self.ledger.keep_task(task, self.index, clock.now())
        return task

    def idle_task(self) -> Task:
        """The task that ends a run.

        Numbers only grow, also after the ledger was lost: they are never below the time in seconds.
        """
        last = self.ledger.last_task()
        number = max(int(clock.now()), last.task.number + 1 if last else 0)
        return Task(fleet=self._config.fleet, run=self.ledger.fact("run") or "", number=number, kind="idle")

    def broadcast(self, task: Task) -> list[BlobRef]:
        """What most of the cohort will want: program and whole model at first, then the newest step."""
        if task.ranges:
            return [task.ranges.program]
        if task.bundle is None or task.weights is None:
            return []
        lines = [line for line in (task.weights, task.control) if line]
        wanted = [line.steps[-1].blob if line.steps else line.full for line in lines]
        return [task.bundle, *wanted] if task.weights.version == 0 else wanted

    # ---- results ----

    def staleness(self, row: TaskRow) -> int | None:
        """How many stages of training ago a task was published; None if its results do not count now."""
        index = self.index
        stage = self._plan[index] if index < len(self._plan) else None
        behind = index - row.stage
        both_train = stage is not None and stage.kind == row.task.kind == "train"
        return behind if behind == 0 or (both_train and self.late.accepts(behind)) else None

    def check(self, task: Task, result: Result, payload: bytes) -> DecodedResult | None:
        """What an update decodes to; raise `RefusedError` unless the result can be aggregated."""
        spec = self._bundle.spec if self._bundle else None
        return check_result(task, result, payload, spec, max_examples=self._config.max_examples)

    def accept(
        self,
        task: Task,
        device: str,
        result: Result,
        payload: bytes,
        now: float,
        decoded: DecodedResult | None = None,
    ) -> None:
        """Make a checked result durable; what it decoded to is kept for the mean."""
        with self.ledger.transaction():
            if result.payload is not None:
                self.payloads.keep(result.payload, payload)
            self.ledger.keep_result(task.number, device, self.index, result, now)
        if decoded is not None and result.payload is not None and result.training is not None:
            self.aggregation.decoded.keep(result.payload, result.training, decoded)

    # ---- closing a stage ----

    def close(
        self, command: CloseStage, clients: Mapping[str, ClientRecord], dropped_bytes: int, now: float
    ) -> RoundRecord | None:
        """Aggregate a stage; the record of its round, or of the last one for an evaluation.

        What the next task does not need is left to `finish`.
        """
        results = self.ledger.results(self.index)
        record: RoundRecord | None = None
        if command.stage.kind == "train":
            record = replace(self._round_record(command, clients, now), dropped_bytes_down=dropped_bytes)
            record = self._close_round(command, record, results)
        else:
            with self.ledger.transaction():
                if command.stage.kind == "statistics":
                    self.ledger.set_fact("statistics", self._merged_statistics(results).digest)
                elif command.stage.kind == "finetune":
                    self.ledger.set_fact(FINE_TUNING, dumps(fine_tuning(results)).decode())
                    record = self._amend(
                        command.stage.round, lambda last: with_traffic(last, clients, dropped_bytes)
                    )
                elif command.stage.kind == "calibrate":
                    self.calibrating.close(results, command.dropped)
                else:
                    record = self._amend(
                        command.stage.round,
                        lambda last: with_traffic(with_evaluation(last, results), clients, dropped_bytes),
                    )
                if command.stage.kind != "statistics":
                    self._count_closing_bytes(clients)
                self._mark_closed(command)
        return record

    def finish(self, record: RoundRecord | None) -> RoundRecord | None:
        """What nobody waits for after `close`, which gave the record: the evaluation, files of no use."""
        record = record and self._evaluated(record)
        self._prune()
        return record

    def catch_up(self) -> None:
        """Evaluate the newest weights if a server was killed before it came to that."""
        if rounds := self.ledger.rounds(RoundRecord):
            self._evaluated(rounds[max(rounds)])

    def _evaluated(self, record: RoundRecord) -> RoundRecord:
        if record.evaluation is not None or record.version != self.versions.latest.version:
            return record
        evaluation = self.evaluate(self.versions.weights)
        amended = evaluation and self._amend(record.round, lambda last: replace(last, evaluation=evaluation))
        return amended or record

    def _count_closing_bytes(self, clients: Mapping[str, ClientRecord]) -> None:
        before = int(self.ledger.fact(CLOSING_BYTES) or 0)
        self.ledger.set_fact(CLOSING_BYTES, str(before + sum(part.bytes_up for part in clients.values())))

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
            dropped=dict(sorted(command.dropped.items())),
            released=command.released,
            selection=self.choosing.selection(),
            codec_up=last.task.training.codec if last and last.task.training else "",
            codec_down=self._codec(self._config.codec.down),
        )

    def _codec(self, configured: str) -> str:
        rounds = self.ledger.rounds(RoundRecord).values() if configured == AUTO else ()
        return choose_codec(configured, rounds)

    def _close_round(
        self, command: CloseStage, record: RoundRecord, results: Mapping[str, Result]
    ) -> RoundRecord:
        aggregation, index = self.aggregation, self.index
        profile = PROFILES[record.codec_down].for_steps
        step, state = aggregation.step(results, index, record.round, profile)
        sparsity = sparsity_of(self._config, record.round)
        aggregation.decoded.clear()
        version, weights = self.versions.advance(step, profile, record.round, sparsity)
        zeros = None if sparsity is None else zero_share(weights, self.bundle.spec.tensors)
        record = replace(record, sparsity=zeros)
        if AUTO in (self._config.codec.up, self._config.codec.down):  # chosen by it for the next task
            record = replace(record, evaluation=self.evaluate(weights))
        fresh = {name: each for name, each in results.items() if not aggregation.staleness(each, index)}
        with self.ledger.transaction():
            self._amend(record.round - 1, lambda before: with_evaluation(before, fresh))
            self.ledger.keep_round(record.round, record)
            self.versions.commit(version, weights)
            aggregation.state.commit(state)
            self._mark_closed(command)
        self.choosing.closed(record)
        return record

    def _mark_closed(self, command: CloseStage) -> None:
        self.ledger.close_task(command.number)
        self.payloads.clear()  # of no use once they are in the mean
        self.ledger.set_fact("stages_closed", str(self.index + 1))

    def _amend(self, number: int, change: Callable[[RoundRecord], RoundRecord]) -> RoundRecord | None:
        """Complete the record of a round that is closed, if there is one."""
        record = self.ledger.round(number, RoundRecord)
        if record is None:
            return None
        record = change(record)
        self.ledger.keep_round(number, record)
        return record

    def _merged_statistics(self, results: Mapping[str, Result]) -> BlobRef:
        parts = [
            loads(ColumnStatistics, self.payloads.read(result.payload), max_bytes=MAX_STATISTICS_BYTES)
            for result in results.values()
            if result.payload is not None
        ]
        return self.artefacts.put(dumps(reduce(add, parts)))

    def _prune(self) -> None:
        """Remove files of updates that are in the mean, and of versions that nobody can step from."""
        kept = [digest for digest in (self.ledger.fact("bundle"), self.ledger.fact("statistics")) if digest]
        kept += [ref.digest for ref in self.frozen.blobs()]
        results = self.ledger.results(self.index).values()  # of the next stage, which is under way
        kept += [result.payload.digest for result in results if result.payload is not None]
        if self._versions is not None:
            kept += self._versions.files() + self.aggregation.state.files() + self.calibrating.files()
        self.artefacts.keep_only(kept)

    # ---- the program ----

    def _adopt(self, bundle: TrainableBundle, ref: BlobRef) -> None:
        self._bundle = bundle
        self._ref = ref
        self._versions = Versions(self.ledger, self.artefacts, bundle.spec, ref.digest)
        self._aggregation = Aggregation(
            self._config, self.ledger, self.artefacts, self.payloads, bundle.spec, ref.digest
        )

    def _table_input(self) -> TableInput:
        digest = self.ledger.fact("statistics")
        if digest is None:
            raise RunError("the column statistics are not merged yet")
        data = self.artefacts.path(digest).read_bytes()
        merged = loads(ColumnStatistics, data, max_bytes=MAX_STATISTICS_BYTES)
        return table_input(merged, self._config.model.scaling)
