"""The server: the round machine's commands carried out over MQTT, with a ledger under them.

One thread. The machine (`broker_server.rounds.machine`) decides; this module listens, publishes, and
tells the machine what happened. Whatever counts is in the ledger before anyone is told that it counts,
and before the broker gets its acknowledgement, so a server that is killed goes on where it was.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from broker_server import clock
from broker_server.attendance import Attendance
from broker_server.broker.base import Broker
from broker_server.calibration import CalibrationError
from broker_server.config import ServerConfig, shown_name
from broker_server.disk import said_when_full
from broker_server.errors import RunError
from broker_server.fleet_latency import FleetLatency, measured_files
from broker_server.incidents import Incidents
from broker_server.ingest import Intake
from broker_server.link import BrokerLink
from broker_server.publisher import Publisher
from broker_server.reception import Reception
from broker_server.records import RoundRecord
from broker_server.report.observer import (
    Note,
    RoundFinished,
    RoundStarted,
    RunObserver,
    UpdateReceived,
)
from broker_server.results import SETUP_BYTES, round_figures
from broker_server.rollout.desk import Desk
from broker_server.rollout.registry import MODELS
from broker_server.rollout.release import Rollout
from broker_server.rounds.machine import (
    Closed,
    CloseStage,
    Command,
    Event,
    FailRun,
    FinishRun,
    RetryStage,
    RunState,
    Skipped,
    Started,
    StartStage,
    Tick,
    steps,
)
from broker_server.rounds.policy import rules_of
from broker_server.settling import Settling
from broker_server.stages import Stages
from broker_server.traffic import Traffic
from broker_server.uploads import Uploads
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import ConnectionChange, Incoming, Session, SessionError
from edge_client.wire.errors import WireError
from edge_client.wire.rounds import Result, Task
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.signing import load_signing_key

log = logging.getLogger(__name__)

TICK_S = 0.1  # between two looks at what only time brings: deadlines, orders, devices to be asked again
GATHER_S = 10.0  # for devices to connect to a server that has just started
REPUBLISH_S = 30.0  # a task or release that went unanswered this long is published again


class Server:
    """One run of one fleet over one broker."""

    def __init__(self, config: ServerConfig, broker: Broker, observer: RunObserver) -> None:
        self.config = config
        self.stages = Stages(config)
        self._broker = broker
        self._observer = observer
        self._topics = Topics(config.fleet)
        filters = [*self._topics.server_filters(), *filter(None, [broker.dropped_topic])]
        self._session = Session(broker.server_address(), AGGREGATOR, filters, manual_ack=True)
        self._incidents = Incidents(self.stages.ledger, observer)
        self._link = BrokerLink(broker, self._incidents)
        signer = load_signing_key(Path(config.keys))
        models = BlobStore(Path(config.state) / MODELS)
        stores = (self.stages.artefacts, models, measured_files(config))
        self._publisher = Publisher(self._session, self._topics, signer, *stores)
        self._publisher.setup_bytes = int(self.stages.ledger.fact(SETUP_BYTES) or 0)
        self._uploads = Uploads(BlobStore(Path(config.state) / "incoming"), self._publisher.tell)
        self._intake = Intake(
            self.stages, self._uploads, self._publisher.tell, self._on_accepted, self._on_failure
        )
        self._settling = Settling(self._intake)
        self._rollout = Rollout(config, self.stages, models, self._publisher, observer, signer)
        self._desk = Desk(self._rollout)
        self._attendance = Attendance(config, self.stages, observer, self._incidents, self._rollout.on_hello)
        self._traffic = Traffic(self.stages.ledger, self._publisher)
        self._latency = FleetLatency(config, self.stages.ledger, self._publisher)
        self._reception = Reception(
            self._topics,
            self._link,
            self._traffic,
            self._attendance,
            self._intake,
            self._publisher,
            self._rollout,
            self._latency,
            self._settle,
        )
        self._rules = rules_of(config)
        self._state = self.stages.resume(time.monotonic())
        self._task: Task | None = None
        self._published = 0.0
        self._later: deque[Callable[[], object]] = deque()  # what devices need not wait for
        self._tick_at = 0.0
        self._rounds = True  # False: only a rollout is led
        self._orders = True  # False: not yet

    def run(self, stop: threading.Event) -> None:
        """Go through the stages, then the release; return when done or told to stop.

        Raises:
            RunError, BrokerError: the run cannot go on; what is done is kept.
        """
        with said_when_full(Path(self.config.state)), self._session:
            self._catch_up()
            self._take_up()
            self._session.wait_connected(30.0)
            while self._state.phase != "finished" and not stop.is_set():
                self._turn()
            if self._state.phase == "finished" and self.config.release.enabled:
                self._rollout.begin(self._attendance.reachable)
                self._lead_rollout(stop)
            while self._latency.busy and not stop.is_set():
                self._turn()
            if self.finished:
                self._publish_idle()

    def roll_out(self, stop: threading.Event) -> None:
        """Carry out the orders that wait in the ledger and lead the rollout to its end; no rounds."""
        self._rounds = False
        with said_when_full(Path(self.config.state)), self._session:
            self._session.wait_connected(30.0)
            self._gather(stop)
            self._lead_rollout(stop)

    def _gather(self, stop: threading.Event) -> None:
        """Let devices connect before canaries are drawn from those that are there."""
        self._orders, known = False, frozenset(self._attendance.hellos)
        until = time.monotonic() + min(GATHER_S, self.config.rounds.grace_s)
        while not (known <= self._attendance.reachable or stop.is_set() or time.monotonic() > until):
            self._turn()
        self._orders = True

    def answer_to(self, order: int) -> str | None:
        """What became of an order to the models; None while it waits."""
        return self._rollout.store.answer(order)

    def _lead_rollout(self, stop: threading.Event) -> None:
        self._tick()  # whatever was ordered keeps it busy from here on
        while (self._rollout.busy(self._attendance.reachable) or self._latency.busy) and not stop.is_set():
            self._turn()

    @property
    def finished(self) -> bool:
        """Whether all stages are closed."""
        return self._state.phase == "finished"

    def _catch_up(self) -> None:
        """Finish the round that an earlier process of this run closed and did not come to evaluate."""
        if (record := self.stages.catch_up()) is not None:
            self._observer.round_finished(RoundFinished(round_figures(record)))

    def _take_up(self) -> None:
        """Say what is left of an earlier process of this run."""
        last = self.stages.ledger.last_task()
        if last is None:
            return
        if self._state.phase == "working":
            self._task = last.task
            count = len(self._state.reported)
            self._incidents.note(
                "server",
                f"stopped in round {last.task.round} with {count} results in",
                "restarted; it went on with those results",
            )
        else:
            self._incidents.note(
                "server",
                f"stopped after {self._state.index} of {len(self._state.stages)} stages",
                "restarted; it went on with the next",
            )

    def _turn(self) -> None:
        item = self._session.receive(self._tick_at - time.monotonic())
        if isinstance(item, ConnectionChange):
            self._on_connection(item)
        elif item is not None:
            events = self._reception.take(item, self._state)
            self._settling.took(item)
            for event in events:
                self._feed(event)
        if self._settling.due(self._state, self._rules):
            self._settle()
        if item is None or (isinstance(item, Incoming) and item.at >= self._tick_at):  # all before it is seen
            self._tick()
            self._tick_at = time.monotonic() + TICK_S
        if self._later:
            self._see_to_the_rest()

    def _see_to_the_rest(self) -> None:
        """What devices need not wait for; whatever they send meanwhile has come in time."""
        while self._later:
            self._later.popleft()()
        self._tick_at = time.monotonic()

    def _tick(self) -> None:
        self._feed(Tick())
        online = self._attendance.reachable
        if self._orders:
            self._desk.take_orders(online)
            self._latency.tick(self._attendance.present)
        self._rollout.tick(online)
        self._uploads.tick(time.monotonic())
        if self._session.connected:
            self._attendance.ask_for_hellos(self._publisher.tell)
            self._republish()
        else:
            self._link.revive()

    # ---- the machine ----

    def _feed(self, event: Event) -> None:
        """Tell the machine, which is to know of every result before."""
        self._settle()
        self._step([event])

    def _settle(self) -> RunState:
        """Make the results that wait durable; how the run stands then."""
        if events := self._settling.settle():
            self._step(events)
        return self._state

    def _step(self, events: Sequence[Event]) -> None:
        if not self._rounds:
            return
        self._state, commands = steps(self._state, events, self._rules, time.monotonic())
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartStage():
                self._start(command)
            case CloseStage():
                self._close(command)
            case RetryStage(stage, number, reason):
                self.stages.ledger.close_task(number)
                what = f"{stage.kind} of round {stage.round} came to {reason}"
                self._incidents.note("server", what, "tried again with the devices that were there")
            case FailRun(stage, reason):
                raise RunError(f"{stage.kind} of round {stage.round} fails again and again: {reason}")
            case FinishRun():
                log.info("all stages are done")

    def _start(self, command: StartStage) -> None:
        if self.stages.needs_program(command.stage):
            self._compile(command.cohort)
        columns = self.stages.columns or self._attendance.hellos[command.cohort[0]].data.columns
        cohort = self.stages.choosing.choose(command, len(self._state.reported))
        try:
            self._task = self.stages.make_task(command.stage, cohort, columns)
        except CalibrationError as exc:  # the run is not lost for it
            self.stages.calibrating.gave_up(str(exc))
            self._feed(Skipped())
            return
        try:
            self._publish_task()
        except WireError as exc:  # cohorts are bounded, but names are long
            raise RunError(f"the task for {len(cohort)} devices does not fit a message: {exc}") from exc
        if command.stage.kind == "train":
            started = RoundStarted(command.stage.round, cohort, self.config.rounds.rounds)
            self._later.append(lambda: self._observer.round_started(started))
        self._feed(Started(self._task.number, cohort))

    def _compile(self, cohort: Sequence[str]) -> None:
        self._observer.note(Note(f"compiling the training program of {shown_name(self.config.model.name)}"))
        self.stages.compile({name: self._attendance.hellos[name] for name in cohort})
        gc.collect()
        gc.freeze()  # TensorFlow's million objects stay: looking through them takes a sixth of a second

    def _close(self, command: CloseStage) -> None:
        still_sending = command.released if self._rules.overlapping else ()
        clients, dropped_bytes = self._traffic.close(command, self.stages.index, still_sending)
        record = self.stages.close(command, clients, dropped_bytes, clock.now())
        self._task = None
        self._later.append(lambda: self._finish(command, record))
        self._feed(Closed())

    def _finish(self, command: CloseStage, record: RoundRecord | None) -> None:
        """The rest of closing a stage; the next task is out by now. What takes long comes last."""
        if self._rules.overlapping and command.stage.kind == "train":
            self._uploads.tidy()
        else:
            self._uploads.clear()
        for device, reason in command.dropped.items():
            what = f"not in {command.stage.kind} of round {command.stage.round}: {reason}"
            self._incidents.note(device, what, f"closed with the results of {len(command.devices)} others")
        if (setup := str(self._publisher.setup_bytes)) != self.stages.ledger.fact(SETUP_BYTES):
            self.stages.ledger.set_fact(SETUP_BYTES, setup)
        record = self.stages.finish(record)
        if record is not None and command.stage.kind == "train":
            self._observer.round_finished(RoundFinished(round_figures(record)))

    # ---- the connection ----

    def _on_connection(self, change: ConnectionChange) -> None:
        if change.connected:
            self._publish_task()
        self._link.on_change(change)

    def _publish_task(self) -> None:
        if self._task is None:
            return
        self._published = time.monotonic()
        try:
            self._publisher.task(self._task, broadcast=self.stages.broadcast(self._task))
        except SessionError as exc:
            log.info("%s; the task is published again later", exc)

    def _publish_idle(self) -> None:
        try:
            self._publisher.task(self.stages.idle_task())
        except SessionError as exc:
            log.info("%s", exc)

    def _republish(self) -> None:
        if time.monotonic() - self._published > REPUBLISH_S:
            self._publish_task()

    # ---- results ----

    def _on_accepted(self, device: str, result: Result) -> None:
        if self._task is None or result.training is None:
            return
        self._observer.update_received(
            UpdateReceived(
                self._task.round,
                device,
                result.training.examples,
                self._traffic.up(device),
                result.training.loss,
                result.training.seconds,
            )
        )

    def _on_failure(self, device: str, reason: str) -> None:
        self._incidents.note(device, f"its result is not counted: {reason}", "refused; the others' count")
