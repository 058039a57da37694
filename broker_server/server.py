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

from broker_server.broker.base import Broker, BrokerError
from broker_server.config import ServerConfig
from broker_server.ingest import RefusedError, Uploads, check_result, max_payload_bytes
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
from broker_server.rollout.release import Rollout
from broker_server.rounds.machine import (
    Closed,
    CloseStage,
    Command,
    Event,
    Joined,
    Left,
    Reported,
    RetryStage,
    Rules,
    Started,
    StartStage,
    Tick,
    step,
)
from broker_server.stages import Stages
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import ConnectionChange, Incoming, Session, SessionError, packet_bytes
from edge_client.wire.blobs import sha256
from edge_client.wire.errors import WireError
from edge_client.wire.frame import Envelope, decode
from edge_client.wire.messages import (
    BlobRequest,
    Chunk,
    Hello,
    HelloRequest,
    Presence,
    Receipt,
    ReleaseReport,
    Result,
    Task,
)
from edge_client.wire.topics import AGGREGATOR, CHUNK, MESSAGE, STATUS, Topics
from provisioning.pki.signing import load_signing_key

log = logging.getLogger(__name__)

TICK_S = 0.5
ASK_S = 2.0  # between requests for a hello that is missing
REPUBLISH_S = 30.0  # a task or release that went unanswered this long is published again


class Server:
    """One run of one fleet over one broker."""

    def __init__(self, config: ServerConfig, broker: Broker, observer: RunObserver) -> None:
        self.config = config
        self.stages = Stages(config)
        self._broker = broker
        self._observer = observer
        self._topics = Topics(config.fleet)
        self._session = Session(
            broker.server_address(), AGGREGATOR, self._topics.server_filters(), manual_ack=True
        )
        signer = load_signing_key(Path(config.keys))
        self._publisher = Publisher(self._session, self._topics, signer, self.stages.artefacts)
        self._uploads = Uploads(BlobStore(Path(config.state) / "incoming"), self._publisher.tell)
        self._rollout = Rollout(config, self.stages, self._publisher, observer)
        rounds = config.rounds
        self._rules = Rules(
            quorum=rounds.quorum,
            wait_for=rounds.wait_for,
            wait_s=rounds.wait_s,
            deadline_s=rounds.deadline_s,
            grace_s=rounds.grace_s,
        )
        self._state = self.stages.resume(time.monotonic())
        self._task: Task | None = None
        self._published = 0.0
        self._bytes_up: Counter[str] = Counter()
        self._hellos: dict[str, Hello] = self.stages.ledger.devices()
        self._present: dict[str, str] = {}  # device: its process's session, as the broker says
        self._ask_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Go through the stages, then the release; return when done or told to stop.

        Raises:
            RunError, BrokerError: the run cannot go on; what is done is kept.
        """
        self._take_up()
        with self._session:
            self._session.wait_connected(30.0)
            while self._state.phase != "finished" and not stop.is_set():
                self._turn()
            if self._state.phase == "finished" and self.config.release.enabled:
                self._rollout.begin()
                while self._rollout.waiting_for(self._state.online) and not stop.is_set():
                    self._turn()
                    self._rollout.publish_again()
            self._publish_idle()

    @property
    def finished(self) -> bool:
        """Whether all stages are closed."""
        return self._state.phase == "finished"

    def heard_of_devices(self) -> bool:
        """Whether any device has ever introduced itself."""
        return bool(self._hellos)

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
        if isinstance(item, ConnectionChange):
            self._on_connection(item)
        elif item is not None:
            try:
                self._on_message(item)
            except WireError as exc:
                log.warning("ignored a message on %s: %s", item.topic, exc)
            except SessionError as exc:
                log.info("%s; will be asked for again", exc)
            finally:
                item.acknowledge()
        self._feed(Tick())
        if self._session.connected:
            self._ask_for_hellos()
            self._republish()

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
            case _:
                log.info("all stages are done")

    def _start(self, command: StartStage) -> None:
        if self.stages.needs_program(command.stage):
            self._observer.note(Note(f"compiling the training program of {self.config.model.name}"))
            self.stages.compile({name: self._hellos[name] for name in command.cohort})
        columns = self._hellos[command.cohort[0]].data.columns
        self._task = self.stages.make_task(command.stage, command.cohort, columns)
        if command.stage.kind == "train":
            self._observer.round_started(
                RoundStarted(command.stage.round, command.cohort, self.config.rounds.rounds)
            )
        self._publish_task()
        self._feed(Started(self._task.number))

    def _close(self, command: CloseStage) -> None:
        clients, dropped_bytes = self._client_records(command)
        record = self.stages.close(command, clients, dropped_bytes, time.time())
        for device, reason in command.dropped.items():
            what = f"not in {command.stage.kind} of round {command.stage.round}: {reason}"
            self._incident(device, what, f"closed with the results of {len(command.devices)} others")
        if record is not None and command.stage.kind == "train":
            self._observer.round_finished(RoundFinished(round_figures(record)))
        self._task = None
        self._feed(Closed())

    def _client_records(self, command: CloseStage) -> tuple[dict[str, ClientRecord], int]:
        """Each device's part with its bytes, and the bytes to those dropped; the counters start again."""
        everyone, own = self._publisher.take_bytes()
        records = {name: self._client_record(name, everyone + own[name]) for name in command.devices}
        self._bytes_up.clear()
        return records, sum(everyone + own[name] for name in command.dropped)

    def _client_record(self, name: str, bytes_down: int) -> ClientRecord:
        result = self.stages.ledger.results(self._state.index)[name]
        training = result.training
        return ClientRecord(
            examples=training.examples if training else 0,
            loss=training.loss if training else 0.0,
            seconds=training.seconds if training else 0.0,
            bytes_up=self._bytes_up[name],
            bytes_down=bytes_down,
            health=result.health,
        )

    # ---- the connection ----

    def _on_connection(self, change: ConnectionChange) -> None:
        if change.connected:
            self._publish_task()
            return
        log.warning("not connected: %s", change.reason)
        if not self._broker.alive():
            self._incident(
                "broker", f"gone ({change.reason})", "started again; open results are offered again"
            )
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

    def _on_message(self, incoming: Incoming) -> None:
        device, channel = self._topics.sender(incoming.topic)
        self._bytes_up[device] += packet_bytes(incoming.topic, incoming.payload)
        envelope = decode(incoming.payload)
        message = envelope.message
        if channel == STATUS and isinstance(message, Presence):
            self._on_presence(device, message)
        elif channel == CHUNK and isinstance(message, Chunk):
            self._on_chunk(device, message, envelope.body)
        elif channel != MESSAGE:
            raise WireError(f"{type(message).__name__} does not belong on channel {channel}")
        elif isinstance(message, Hello):
            self._on_hello(device, message)
        elif isinstance(message, Result):
            self._on_result(device, message, envelope)
        elif isinstance(message, BlobRequest):
            self._publisher.send_chunks(device, message)
        elif isinstance(message, ReleaseReport):
            self._rollout.on_report(device, message)
        else:
            raise WireError(f"{type(message).__name__} is not a device's message")

    def _on_presence(self, device: str, presence: Presence) -> None:
        hello = self._hellos.get(device)
        if presence.state == "online":
            self._present[device] = presence.session
            if hello is not None and hello.session == presence.session:
                self._feed(Joined(device))
        elif hello is None or hello.session == presence.session:  # else: an old process's last will
            self._present.pop(device, None)
            if device in self._state.online:
                self._observer.device_left(DeviceLeft(device))
                if device in self._state.outstanding:
                    grace = f"waited up to {self.config.rounds.grace_s:g} s for it"
                    self._incident(device, "left in the middle of a task", grace)
            self._feed(Left(device))

    def _on_hello(self, device: str, hello: Hello) -> None:
        if problem := self._unfit(hello):
            self._incident(device, f"cannot take part: {problem}", "the run goes on without it")
            return
        returned = device in self._hellos
        self._hellos[device] = hello
        self.stages.ledger.keep_hello(device, hello, time.time())
        if device not in self._state.online:
            self._observer.device_joined(
                DeviceJoined(device, hello.data.examples, hello.runtime, hello.architecture, returned)
            )
        self._feed(Joined(device))

    def _unfit(self, hello: Hello) -> str | None:
        """Why a device cannot take part in this run; None if it can."""
        if hello.data.kind != self.config.model.kind:
            return f"it has {hello.data.kind} data, the model takes {self.config.model.kind} data"
        if not hello.data.examples:
            return "it has no training examples"
        classes = self.config.model.classes
        if classes and (strange := sorted(set(hello.data.counts) - set(classes))):
            return f"label {strange[0]!r} is not one of the model's classes"
        others = [known.data.columns for known in self._hellos.values()]
        if others and hello.data.columns != others[0]:
            return "its table has other columns than the fleet's"
        return None

    # ---- results ----

    def _on_result(self, device: str, result: Result, envelope: Envelope) -> None:
        task = self._task
        if self.stages.ledger.has_result(result.task, device):
            self._publisher.tell(device, Receipt(task=result.task, accepted=True))
        elif task is None or result.task != task.number or device not in task.cohort:
            self._refuse(device, result, "the task is over or not for this device")
        elif result.status == "failed":
            self._refuse(device, result, result.reason or "no reason given", failed=True)
        elif device in self._state.reported:
            self._refuse(device, result, "already counted in this round")
        elif result.payload is None or envelope.body:
            if result.payload is not None and sha256(envelope.body) != result.payload.digest:
                self._refuse(device, result, "the payload does not match its digest", failed=True)
                return
            self._accept(device, result, envelope.body)
        elif result.payload.size > max_payload_bytes(task, self.stages.parameters):
            self._refuse(device, result, f"{result.payload.size} bytes are too many", failed=True)
        elif (payload := self._uploads.offer(device, result, result.payload, time.monotonic())) is not None:
            self._accept(device, result, payload)

    def _on_chunk(self, device: str, chunk: Chunk, data: bytes) -> None:
        try:
            complete = self._uploads.add_chunk(device, chunk, data, time.monotonic())
        except RefusedError as exc:
            log.info("%s: %s", device, exc)
            return
        if complete is not None and self._task is not None and complete[0].task == self._task.number:
            self._accept(device, *complete)

    def _accept(self, device: str, result: Result, payload: bytes) -> None:
        task = self._task
        if task is None:
            return
        try:
            check_result(task, result, payload, self.stages.tensors)
        except RefusedError as exc:
            self._refuse(device, result, str(exc), failed=True)
            return
        self.stages.accept(task, device, result, payload, time.time())
        self._publisher.tell(device, Receipt(task=task.number, accepted=True))
        if result.training:
            self._observer.update_received(
                UpdateReceived(
                    task.round,
                    device,
                    result.training.examples,
                    self._bytes_up[device],
                    result.training.loss,
                    result.training.seconds,
                )
            )
        self._feed(Reported(device, task.number))

    def _refuse(self, device: str, result: Result, reason: str, *, failed: bool = False) -> None:
        self._publisher.tell(device, Receipt(task=result.task, accepted=False, reason=reason[:500]))
        if failed:
            self._incident(device, f"its result is not counted: {reason}", "refused; the others' count")
            self._feed(Reported(device, result.task, reason[:200]))

    def _incident(self, who: str, what: str, remedy: str) -> None:
        log.warning("%s: %s; %s", who, what, remedy)
        self.stages.ledger.note(time.time(), who, what[:1000], remedy)
        self._observer.note(Note(f"{who}: {what}; {remedy}"[:1900], level="warning"))
