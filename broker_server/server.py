"""The server: the round machine's commands carried out over MQTT, with a ledger under them.

One thread. The machine (`broker_server.rounds.machine`) decides; this module listens, publishes, and
tells the machine what happened. Whatever counts is in the ledger before anyone is told that it counts,
and before the broker gets its acknowledgement, so a server that is killed goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from pathlib import Path

from broker_server import clock
from broker_server.broker.base import Broker, BrokerError
from broker_server.calibration import CalibrationError
from broker_server.checks import RefusedError
from broker_server.config import ServerConfig, shown_name
from broker_server.disk import said_when_full
from broker_server.errors import RunError
from broker_server.fleet_latency import FleetLatency, measured_files
from broker_server.ingest import Intake
from broker_server.publisher import Publisher
from broker_server.records import ClientRecord
from broker_server.report.observer import (
    DeviceJoined,
    DeviceLeft,
    Note,
    RoundFinished,
    RoundStarted,
    RunObserver,
    UpdateReceived,
)
from broker_server.results import round_figures
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
    Joined,
    Left,
    RetryStage,
    Skipped,
    Started,
    StartStage,
    Tick,
    step,
)
from broker_server.rounds.policy import rules_of
from broker_server.stages import Stages
from broker_server.uploads import Uploads
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import ConnectionChange, Incoming, Session, SessionError, packet_bytes
from edge_client.wire.errors import WireError
from edge_client.wire.frame import Envelope, decode
from edge_client.wire.messages import (
    BlobRequest,
    Chunk,
    Hello,
    HelloRequest,
    LatencyProgress,
    LatencyReport,
    ModelHealth,
    Presence,
    ReleaseReport,
    Result,
    Task,
)
from edge_client.wire.topics import AGGREGATOR, CHUNK, MESSAGE, STATUS, Topics
from provisioning.pki.signing import load_signing_key

log = logging.getLogger(__name__)

TICK_S = 0.5
BROKER_CHECK_S = 3.0
ASK_S = 2.0  # between requests for a hello that is missing
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
        self._dropped = 0  # messages that the broker acknowledged and threw away
        signer = load_signing_key(Path(config.keys))
        models = BlobStore(Path(config.state) / MODELS)
        stores = (self.stages.artefacts, models, measured_files(config))
        self._publisher = Publisher(self._session, self._topics, signer, *stores)
        self._uploads = Uploads(BlobStore(Path(config.state) / "incoming"), self._publisher.tell)
        self._intake = Intake(
            self.stages, self._uploads, self._publisher.tell, self._on_accepted, self._on_failure
        )
        self._rollout = Rollout(config, self.stages, models, self._publisher, observer, signer)
        self._desk = Desk(self._rollout)
        self._latency = FleetLatency(config, self.stages.ledger, self._publisher)
        self._rules = rules_of(config)
        self._state = self.stages.resume(time.monotonic())
        self._task: Task | None = None
        self._published = 0.0
        self._bytes_up: Counter[str] = Counter()
        self._hellos: dict[str, Hello] = self.stages.ledger.devices()
        self._unfit: dict[str, str] = {}  # device: why it cannot take part
        self._broker_checked = 0.0
        self._linked = False  # as the last change of the connection said
        self._present: dict[str, str] = {}  # device: its process's session, as the broker says
        self._ask_at = 0.0
        self._rounds = True  # False: only a rollout is led
        self._orders = True  # False: not yet

    def run(self, stop: threading.Event) -> None:
        """Go through the stages, then the release; return when done or told to stop.

        Raises:
            RunError, BrokerError: the run cannot go on; what is done is kept.
        """
        with said_when_full(Path(self.config.state)), self._session:
            self._take_up()
            self._session.wait_connected(30.0)
            while self._state.phase != "finished" and not stop.is_set():
                self._turn()
            if self._state.phase == "finished" and self.config.release.enabled:
                self._rollout.begin(self._reachable())
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
        self._orders, known = False, frozenset(self._hellos)
        until = time.monotonic() + min(GATHER_S, self.config.rounds.grace_s)
        while not (known <= self._reachable() or stop.is_set() or time.monotonic() > until):
            self._turn()
        self._orders = True

    def answer_to(self, order: int) -> str | None:
        """What became of an order to the models; None while it waits."""
        return self._rollout.store.answer(order)

    def _lead_rollout(self, stop: threading.Event) -> None:
        self._turn()
        while (self._rollout.busy(self._reachable()) or self._latency.busy) and not stop.is_set():
            self._turn()

    @property
    def finished(self) -> bool:
        """Whether all stages are closed."""
        return self._state.phase == "finished"

    def _take_up(self) -> None:
        """Say what is left of an earlier process of this run."""
        last = self.stages.ledger.last_task()
        if last is None:
            return
        if self._state.phase == "working":
            self._task = last.task
            count = len(self._state.reported)
            self._incident(
                "server",
                f"stopped in round {last.task.round} with {count} results in",
                "restarted; it went on with those results",
            )
        else:
            self._incident(
                "server",
                f"stopped after {self._state.index} of {len(self._state.stages)} stages",
                "restarted; it went on with the next",
            )

    def _turn(self) -> None:
        item = self._session.receive(TICK_S)
        events: list[Event] = []
        if isinstance(item, ConnectionChange):
            events = self._on_connection(item)
        elif item is not None:
            events = self._on_message(item)
            item.acknowledge()  # what counts is durable by now
        for event in (*events, Tick()):
            if self._rounds:
                self._feed(event)
        online = self._reachable()
        if self._orders:
            self._desk.take_orders(online)
            self._latency.tick(frozenset(self._present))
        self._rollout.tick(online)
        self._uploads.tick(time.monotonic())
        if self._session.connected:
            self._ask_for_hellos()
            self._republish()
        else:
            self._revive_broker()

    def _reachable(self) -> frozenset[str]:
        """Devices that are there and may get a model."""
        return frozenset(self._present) & frozenset(self._hellos) - frozenset(self._unfit)

    # ---- the machine ----

    def _feed(self, event: Event) -> None:
        self._state, commands = step(self._state, event, self._rules, time.monotonic())
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
                self._incident("server", what, "tried again with the devices that were there")
            case FailRun(stage, reason):
                raise RunError(f"{stage.kind} of round {stage.round} fails again and again: {reason}")
            case FinishRun():
                log.info("all stages are done")

    def _start(self, command: StartStage) -> None:
        if self.stages.needs_program(command.stage):
            self._observer.note(
                Note(f"compiling the training program of {shown_name(self.config.model.name)}")
            )
            self.stages.compile({name: self._hellos[name] for name in command.cohort})
        columns = self.stages.columns or self._hellos[command.cohort[0]].data.columns
        cohort = self.stages.choosing.choose(command, len(self._state.reported))
        try:
            self._task = self.stages.make_task(command.stage, cohort, columns)
        except CalibrationError as exc:  # the run is not lost for it
            self.stages.calibrating.gave_up(str(exc))
            self._feed(Skipped())
            return
        if command.stage.kind == "train":
            self._observer.round_started(RoundStarted(command.stage.round, cohort, self.config.rounds.rounds))
        try:
            self._publish_task()
        except WireError as exc:  # cohorts are bounded, but names are long
            raise RunError(f"the task for {len(cohort)} devices does not fit a message: {exc}") from exc
        self._feed(Started(self._task.number, cohort))

    def _close(self, command: CloseStage) -> None:
        clients, dropped_bytes = self._client_records(command)
        record = self.stages.close(command, clients, dropped_bytes, clock.now())
        if self._rules.overlapping and command.stage.kind == "train":
            self._uploads.tidy()
        else:
            self._uploads.clear()
        for device, reason in command.dropped.items():
            what = f"not in {command.stage.kind} of round {command.stage.round}: {reason}"
            self._incident(device, what, f"closed with the results of {len(command.devices)} others")
        if record is not None and command.stage.kind == "train":
            self._observer.round_finished(RoundFinished(round_figures(record)))
        self.stages.ledger.set_fact("setup_bytes", str(self._publisher.setup_bytes))
        self._task = None
        self._feed(Closed())

    def _client_records(self, command: CloseStage) -> tuple[dict[str, ClientRecord], int]:
        """Each device's part with its bytes, and the bytes to those dropped; the counters start again."""
        everyone, own = self._publisher.take_bytes()
        ledger, index = self.stages.ledger, self.stages.index
        results, answered = ledger.results(index), ledger.answer_times(index)
        records = {}
        for name in command.devices:
            began = ledger.stage_of(results[name].task)
            traffic = self._bytes_up[name], everyone + own[name]
            stale = 0 if began is None else index - began
            records[name] = _client_record(results[name], *traffic, stale, answered.get(name, 0.0))
        still_sending = command.released if self._rules.overlapping else ()
        self._bytes_up = Counter({name: self._bytes_up[name] for name in still_sending})
        others = (*command.dropped, *command.released)
        return records, sum(everyone + own[name] for name in others)

    # ---- the connection ----

    def _on_connection(self, change: ConnectionChange) -> list[Event]:
        if change.connected:
            self._publish_task()
        else:
            if self._linked:  # a broker that another hand starts again at once is never seen gone
                lost = f"connection lost: {change.reason}"
                self._incident("broker", lost, "what has no receipt is sent again")
            log.warning("not connected: %s", change.reason)
            self._revive_broker()
        self._linked = change.connected
        return []

    def _revive_broker(self) -> None:
        """Start a broker of ours again that is gone; looked at every few seconds while disconnected."""
        now = time.monotonic()
        if now - self._broker_checked < BROKER_CHECK_S or self._broker.alive():
            return
        self._broker_checked = now
        self._incident("broker", "gone", "started again; open results are offered again")
        try:
            self._broker.restart()
        except BrokerError as exc:
            log.warning("the broker does not start: %s", exc)

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

    def _ask_for_hellos(self) -> None:
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._ask_at = now + ASK_S
        for device, session in self._present.items():
            hello = self._hellos.get(device)
            if hello is None or hello.session != session:
                self._publisher.tell(device, HelloRequest(session=session))

    # ---- messages ----

    def _on_message(self, incoming: Incoming) -> list[Event]:
        """Take one message; what the machine is to be told. Nothing a device sends may get past this."""
        if incoming.topic == self._broker.dropped_topic:
            self._on_dropped(incoming.payload)
            return []
        try:
            device, channel = self._topics.sender(incoming.topic)
            self._bytes_up[device] += packet_bytes(incoming.topic, incoming.payload)
            event = self._take(device, channel, decode(incoming.payload))
        except (WireError, RefusedError) as exc:
            log.warning("ignored a message on %s: %s", incoming.topic[:200], exc)
            return []
        except SessionError as exc:
            log.info("%s; will be asked for again", exc)
            return []
        return [event] if event else []

    def _on_dropped(self, payload: bytes) -> None:
        """The broker's own count of what it lost; it comes every few seconds."""
        count = int(payload) if payload.isdigit() and len(payload) < 20 else 0
        if count > self._dropped:
            lost = f"threw {count - self._dropped} acknowledged messages away"
            self._incident("broker", lost, "what has no receipt is sent again")
        self._dropped = count

    def _take(self, device: str, channel: str, envelope: Envelope) -> Event | None:
        message = envelope.message
        if channel == STATUS and isinstance(message, Presence):
            return self._on_presence(device, message)
        if channel == CHUNK and isinstance(message, Chunk):
            return self._intake.on_chunk(device, message, envelope.body)
        if channel != MESSAGE:
            raise WireError(f"{type(message).__name__} does not belong on channel {channel}")
        match message:
            case Hello():
                return self._on_hello(device, message)
            case Result():
                return self._intake.on_result(device, message, envelope.body)
            case BlobRequest():
                self._publisher.send_chunks(device, message)
            case ReleaseReport():
                self._rollout.on_report(device, message)
            case LatencyProgress():
                self._latency.on_progress(device, message)
            case LatencyReport():
                self._latency.on_report(device, message)
            case ModelHealth():
                self._rollout.on_health(device, message)
            case _:
                raise WireError(f"{type(message).__name__} is not a device's message")
        return None

    def _on_presence(self, device: str, presence: Presence) -> Event | None:
        hello = self._hellos.get(device)
        same = hello is not None and hello.session == presence.session
        if presence.state == "online":
            self._present[device] = presence.session
            return Joined(device) if same and device not in self._unfit else None
        if hello is not None and not same:
            return None  # an old process's last will
        self._present.pop(device, None)
        if device in self._state.online:
            self._observer.device_left(DeviceLeft(device))
            if device in self._state.outstanding:
                grace = f"waited up to {self.config.rounds.grace_s:g} s for it"
                self._incident(device, "left in the middle of a task", grace)
        return Left(device)

    def _on_hello(self, device: str, hello: Hello) -> Event | None:
        returned = device in self._hellos
        self._hellos[device] = hello
        self._present[device] = hello.session
        self.stages.ledger.keep_hello(device, hello, clock.now())
        if problem := self._problem_of(device, hello):
            if self._unfit.get(device) != problem:
                self._incident(device, f"cannot take part: {problem}", "the run goes on without it")
            self._unfit[device] = problem
            return None
        self._unfit.pop(device, None)
        self._rollout.on_hello(device, hello)
        if device not in self._state.online:
            self._observer.device_joined(
                DeviceJoined(device, hello.data.examples, hello.runtime, hello.architecture, returned)
            )
        return Joined(device)

    def _problem_of(self, device: str, hello: Hello) -> str | None:
        """Why a device cannot take part in this run; None if it can."""
        if hello.data.kind != self.config.model.kind:
            return f"it has {hello.data.kind} data, the model takes {self.config.model.kind} data"
        if not hello.data.examples:
            return "it has no training examples"
        classes = self.config.model.classes or self.stages.classes
        if classes and (strange := sorted(set(hello.data.counts) - set(classes))):
            return f"label {strange[0]!r} is not one of the model's classes"
        columns = self.stages.columns or self._usual_columns(device)
        if columns and set(hello.data.columns) != set(columns):
            return "its table has other columns than the fleet's"
        return None

    def _usual_columns(self, device: str) -> tuple[str, ...]:
        """The columns that most other devices have; empty without others."""
        others = Counter(
            hello.data.columns
            for name, hello in self._hellos.items()
            if name != device and name not in self._unfit
        )
        return others.most_common(1)[0][0] if others else ()

    # ---- results ----

    def _on_accepted(self, device: str, result: Result) -> None:
        if self._task is None or result.training is None:
            return
        self._observer.update_received(
            UpdateReceived(
                self._task.round,
                device,
                result.training.examples,
                self._bytes_up[device],
                result.training.loss,
                result.training.seconds,
            )
        )

    def _on_failure(self, device: str, reason: str) -> None:
        self._incident(device, f"its result is not counted: {reason}", "refused; the others' count")

    def _incident(self, who: str, what: str, remedy: str) -> None:
        log.warning("%s: %s; %s", who, what, remedy)
        self.stages.ledger.note(clock.now(), who, what[:1000], remedy)
        self._observer.note(Note(f"{who}: {what}; {remedy}"[:1900], level="warning"))


def _client_record(
    result: Result, bytes_up: int, bytes_down: int, staleness: int, answered_s: float
) -> ClientRecord:
    training = result.training
    return ClientRecord(
        examples=training.examples if training else 0,
        loss=training.loss if training else 0.0,
        seconds=min(training.seconds, answered_s or training.seconds) if training else 0.0,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        health=result.health,
        staleness=staleness,
        variate_bytes=training.variate_bytes if training else 0,
        answered_s=answered_s,
    )
