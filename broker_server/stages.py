"""The stages of a run as they touch the disk: what a task says, and the results that come in.

No network here. `broker_server.server` publishes what `make_task` returns and calls `close` when the
round machine says so; everything that `close` changes becomes durable in one transaction
(`broker_server.closing`). What is trained with is in `broker_server.run_program`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from broker_server import clock
from broker_server.aggregation import Aggregation
from broker_server.calibrating import Calibrating
from broker_server.checks import check_result
from broker_server.closing import Closing
from broker_server.codec_control import codec_now
from broker_server.cohort.choosing import Choosing
from broker_server.config import ServerConfig
from broker_server.decoded import DecodedResult
from broker_server.errors import RunError
from broker_server.fleet import ledger_path
from broker_server.records import ClientRecord, RoundRecord
from broker_server.rounds.machine import CloseStage, RunState, Stage
from broker_server.rounds.policy import late_policy
from broker_server.run_plan import in_words, stages_of, training_plan
from broker_server.run_program import RunProgram
from broker_server.store.ledger import Ledger, TaskRow
from broker_server.store.payloads import Payloads
from broker_server.versions import Versions
from compression.spec import TrainableBundle
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.presence import Hello
from edge_client.wire.rounds import Result, Task

log = logging.getLogger(__name__)


class Stages:
    """The durable side of one run.

    Attributes:
        ledger: what happened.
        artefacts: bundles, weights, steps and large updates by content hash.
        payloads: what devices sent with the results of the stage at work.
        late: what becomes of late results.
        choosing: of the cohorts.
        calibrating: the stage in which devices measure ranges.
        program: what is trained with.
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
        if self.ledger.fact("run") is None:
            with self.ledger.transaction():
                self.ledger.set_fact("run", secrets.token_hex(8))
                self.ledger.set_fact("plan", in_words(config))
        elif self.ledger.fact("plan") != in_words(config):
            raise RunError(
                f"this run began with other settings ({self.ledger.fact('plan')}): put them back, "
                f"or begin a new run by moving {folder} away"
            )
        self.program = RunProgram(config, self.ledger, self.artefacts, self.payloads)
        self.frozen = self.program.frozen
        self._closing = Closing(
            config,
            self.ledger,
            self.artefacts,
            self.payloads,
            self.program,
            self.choosing,
            self.calibrating,
        )

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
        return self._closing.index

    @property
    def bundle(self) -> TrainableBundle:
        """The training program; raise `RunError` before there is one."""
        return self.program.bundle

    @property
    def bundle_ref(self) -> BlobRef:
        """The training program's manifest; raise `RunError` before there is one."""
        return self.program.bundle_ref

    @property
    def versions(self) -> Versions:
        """The fleet's weights; raise `RunError` before there are any."""
        return self.program.versions

    @property
    def aggregation(self) -> Aggregation:
        """The strategy at work; raise `RunError` before the program is compiled."""
        return self.program.aggregation

    @property
    def parameters(self) -> int:
        """Number of values in an update; 0 before the program is compiled."""
        return self.program.parameters

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's classes; empty before the program is compiled."""
        return self.program.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the fleet's tables; empty for pictures and before they are known."""
        return self.program.columns

    # ---- starting a stage ----

    def needs_program(self, stage: Stage) -> bool:
        """Whether the training program must be compiled before this stage can start."""
        return stage.kind != "statistics" and not self.program.compiled

    def compile(self, hellos: Mapping[str, Hello]) -> None:
        """Compile the training program for the classes and columns that the fleet has."""
        self.program.compile(hellos)

    def make_task(self, stage: Stage, cohort: tuple[str, ...], columns: tuple[str, ...]) -> Task:
        """A task with a new number, written down."""
        task = replace(self.idle_task(), round=stage.round, cohort=cohort)
        if stage.kind == "statistics":
            task = replace(task, kind="statistics", columns=columns)
        elif stage.kind == "calibrate":
            plan = self.calibrating.plan(self.bundle.spec.whole, self.versions)
            extractor = self.frozen.manifest  # for the release: what no task names, devices throw away
            task = replace(task, kind="calibrate", bundle=self.bundle_ref, extractor=extractor, ranges=plan)
        else:
            trains = stage.kind == "train"
            task = replace(
                task,
                kind=stage.kind,
                bundle=self.bundle_ref,
                extractor=self.frozen.manifest,
                weights=self.versions.reference(),
                training=training_plan(self._config, stage, codec_now(self._config.codec.up, self.ledger)),
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
        spec = self.bundle.spec if self.program.compiled else None
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
        return self._closing.close(command, clients, dropped_bytes, now)

    def finish(self, record: RoundRecord | None) -> RoundRecord | None:
        """What nobody waits for after `close`, which gave the record: the evaluation, files of no use."""
        return self._closing.finish(record)

    def catch_up(self) -> RoundRecord | None:
        """Evaluate the newest weights if a server was killed before it came to that; their round, or None."""
        return self._closing.catch_up()
