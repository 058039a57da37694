"""The edge client: one device of the fleet, from its connection to its receipts.

One thread does everything in turn; the MQTT library's own thread only fills the session's inbox, so
the connection stays alive while the device trains. Every exchange has its answer end to end: what is
not answered is sent again, and everything sent again is harmless.

The loop and the way of each message are here; what is done about them is in the rooms that it names:
`tasks`, `offering`, `rollout`, `upgrade.agent`, `measure.agent`, and `uplink` for what the device says.
"""

from __future__ import annotations

import logging
import random
import secrets
import signal
import threading
import time
from pathlib import Path

from edge_client.config import EdgeConfig
from edge_client.data import DataSource, summarise
from edge_client.device.slots import TRIAL_S, passed
from edge_client.enrolment.steps import Steps
from edge_client.hello import hello
from edge_client.inference.aftercare import Aftercare
from edge_client.inference.slots import FOLDER
from edge_client.measure.agent import Measurer
from edge_client.offering import Offering
from edge_client.releases import Installer
from edge_client.rollout import Rollout
from edge_client.sd_notify import ServiceManager
from edge_client.session.blobs import BlobStore
from edge_client.session.downloads import Downloads
from edge_client.session.mqtt import ConnectionChange, Incoming, LastWill, Session
from edge_client.state import DeviceState
from edge_client.tasks import Tasks
from edge_client.troubles import Troubles
from edge_client.upgrade.agent import Upgrader
from edge_client.uplink import Uplink, absence
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.errors import WireError
from edge_client.wire.frame import Envelope, decode
from edge_client.wire.latency import LatencyRequest
from edge_client.wire.presence import Hello, HelloRequest
from edge_client.wire.rollout import Release
from edge_client.wire.rounds import Receipt, Task
from edge_client.wire.signing import Verifier
from edge_client.wire.topics import CHUNK, MESSAGE, RELEASE, STATUS, TASK, Topics
from edge_client.wire.upgrade import Upgrade, UpgradeReport
from edge_client.work import Workshop

log = logging.getLogger(__name__)

LONGEST_SLEEP_S = 1.0  # SIGTERM sets an event that nothing here waits on


class Agent:
    """One device. `run` returns when `stop` is set."""

    def __init__(self, config: EdgeConfig, manager: ServiceManager | None = None) -> None:
        self._config = config
        self._manager = manager or ServiceManager()
        self._verifier = Verifier(config.server_key)
        self._state = DeviceState(Path(config.state))
        self._blobs = BlobStore(Path(config.state) / "blobs")
        rng = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._downloads = Downloads(self._blobs, rng)
        self._workshop = Workshop(config, self._state, self._blobs, self._manager.alive)
        self._installer = Installer(self._state, self._blobs, self._workshop)
        self._aftercare = Aftercare(
            self._state.directory / FOLDER,
            self._workshop.load_data,
            time.monotonic(),
            threads=config.threads,
        )
        self._summary = summarise(
            DataSource.parse(config.data.source, label_column=config.data.label_column),
            validation_fraction=config.data.validation_fraction,
            seed=config.data.seed,
            progress=self._counting,
        )
        self._process = secrets.token_hex(8)
        topics = Topics(config.fleet)
        will = LastWill(topics.up(config.name, STATUS), absence(self._process))
        self._session = Session(config.broker, config.name, topics.device_filters(config.name), will=will)
        self._uplink = Uplink(self._session, topics, config.name, self._process)
        self._upgrader = Upgrader(self._state.directory, self._blobs)
        self._measurer = Measurer(config.fleet, self._state.directory, self._blobs, self._downloads)
        self._offering = Offering(self._state, self._uplink, rng, time.monotonic)
        files = (self._state, self._blobs, self._downloads)
        self._tasks = Tasks(config, *files, self._workshop, self._offering, time.monotonic)
        self._rollout = Rollout(
            config, *files, self._installer, self._aftercare, self._uplink, time.monotonic
        )
        self._troubles = Troubles(time.monotonic)
        self._joined = False  # the broker has been reached by this process
        self._stop = threading.Event()

    def _counting(self, _done: int, _total: int) -> None:
        """Examples are being counted: hours of pictures on a slow card are no reason to end the start."""
        self._manager.starting()
        if signal.alarm(0):  # of the launcher: the time of a trial is for coming online
            signal.alarm(TRIAL_S)

    def run(self, stop: threading.Event) -> None:
        """Take part in the fleet until told to stop."""
        self._stop = stop
        with self._session, self._measurer:
            log.info("%s: connecting to %s", self._config.name, self._config.broker)
            self._manager.ready()
            Steps(self._config, None).note("service", "ok")
            while not stop.is_set():
                self._manager.alive()
                self._step()
            self._manager.stopping()
            self._uplink.say_goodbye()

    # ---- one turn of the loop ----

    def _step(self) -> None:
        item = self._session.receive(self._sleep_s())
        while item is not None and not self._stop.is_set():  # all of it: before asking for what is here
            self._handle(item)
            item = self._session.receive(0)
        if self._session.connected and time.monotonic() >= self._troubles.rest_until:
            with self._troubles.survived("working"):
                self._request_chunks()
                self._measure()
                self._advance()
                self._say_how_the_model_does()
                self._troubles.over()

    def _handle(self, item: Incoming | ConnectionChange) -> None:
        """See to a message or to news of the connection; between two batches of training as well."""
        with self._troubles.survived(item.topic if isinstance(item, Incoming) else "connection"):
            if isinstance(item, ConnectionChange):
                self._on_connection(item)
            else:
                self._on_message(item)

    def _sleep_s(self) -> float:
        if not self._session.connected:
            return LONGEST_SLEEP_S
        now = time.monotonic()
        due = [now + LONGEST_SLEEP_S]
        if self._may_look():
            due.append(self._aftercare.next_due())
        if (request := self._downloads.next_due()) is not None:
            due.append(request)
        if (offer := self._offering.next_due()) is not None:
            due.append(offer)
        return min(max(0.0, min(due) - now, self._troubles.rest_until - now), LONGEST_SLEEP_S)

    def _on_connection(self, change: ConnectionChange) -> None:
        self._offering.be_patient()
        if not change.connected:
            log.info("not connected: %s", change.reason)
            self._manager.status(f"not connected: {change.reason}")
            return
        log.info("connected")
        self._note_joined()
        self._downloads.reconnected(time.monotonic())
        self._offering.soon()
        self._uplink.say_online()
        self._uplink.tell(self._hello())
        self._manager.status(f"connected to {self._config.broker}")
        self._end_trial()
        if (report := self._upgrader.news()) is not None:
            self._report_upgrade(report)

    def _note_joined(self) -> None:
        """Once a process, for whoever reads the card of a device that was seen no more."""
        if not self._joined:
            self._joined = True
            Steps(self._config, None).note("joined", "ok", f"connected to {self._config.broker}")

    def _end_trial(self) -> None:
        """A client on trial is kept once it is online; the launcher's alarm would have ended it."""
        if passed(self._state.directory):
            signal.alarm(0)
            log.info("this client has passed its trial")

    # ---- messages ----

    def _on_message(self, incoming: Incoming) -> None:
        channel = incoming.topic.rsplit("/", 1)[-1]
        if channel == CHUNK:
            self._on_chunk(decode(incoming.payload), incoming.at)
        elif channel == RELEASE and not incoming.payload:
            self._rollout.withdraw()
        else:
            envelope = decode(incoming.payload, topic=incoming.topic, verifier=self._verifier)
            self._on_signed(channel, envelope, incoming.payload)

    def _on_chunk(self, envelope: Envelope, at: float) -> None:
        chunk = envelope.message
        if not isinstance(chunk, Chunk):
            raise WireError(f"{type(chunk).__name__} does not belong on a chunk channel")
        self._downloads.on_chunk(chunk.blob, chunk.index, envelope.body, at)

    def _on_signed(self, channel: str, envelope: Envelope, frame: bytes) -> None:
        message = envelope.message
        if isinstance(message, Task | Release | Upgrade) and message.fleet != self._config.fleet:
            raise WireError(f"{type(message).__name__.lower()} of fleet {message.fleet}")
        if channel == TASK and isinstance(message, Task):
            self._tasks.on_task(message, envelope.body)
        elif channel in (RELEASE, MESSAGE) and isinstance(message, Release):
            self._rollout.on_release(message, frame, alone=channel == MESSAGE)
        elif channel == MESSAGE and isinstance(message, Grant):
            self._offering.on_grant(message)
        elif channel == MESSAGE and isinstance(message, Receipt):
            self._offering.on_receipt(message)
        elif channel == MESSAGE and isinstance(message, HelloRequest):
            self._uplink.tell(self._hello())
        elif channel == MESSAGE and isinstance(message, Upgrade):
            self._on_upgrade(message, frame)
        elif channel == MESSAGE and isinstance(message, LatencyRequest):
            if (answer := self._measurer.on_request(message, self._occupation())) is not None:
                self._uplink.tell(answer)
        else:
            raise WireError(f"{type(message).__name__} does not belong on channel {channel[:20]!r}")

    def _on_upgrade(self, upgrade: Upgrade, frame: bytes) -> None:
        log.info("upgrade %d: client %s, build %d", upgrade.number, upgrade.version, upgrade.build)
        if (report := self._upgrader.on_upgrade(upgrade, frame)) is not None:
            self._report_upgrade(report)

    def _report_upgrade(self, report: UpgradeReport) -> None:
        log.info("upgrade %d: %s %s", report.number, report.outcome, report.reason)
        self._uplink.tell(report)

    def _hello(self) -> Hello:
        return hello(self._process, self._summary, self._state.directory, self._installer.active_version())

    # ---- work ----

    def _request_chunks(self) -> None:
        for request in self._downloads.due(time.monotonic()):
            self._uplink.tell(request)

    def _measure(self) -> None:
        """Before `_advance`, which may train for an hour: a child that measures is ended first."""
        if (answer := self._measurer.advance(time.monotonic(), self._occupation())) is not None:
            self._uplink.tell(answer)

    def _occupation(self) -> str:
        if (task := self._tasks.newest) is not None:
            return f"it has a task: {task.kind}"
        return "a release is on its way" if self._rollout.release is not None else ""

    def _advance(self) -> None:
        """Do the next thing that can be done: settle a result, carry out a task, install a release."""
        if self._state.pending:
            self._offering.advance(task_waits=self._tasks.newest is not None)
        elif (task := self._tasks.newest) is not None:
            if self._tasks.ready(task) and self._tasks.carry_out(task, self._must_stop):
                self._sweep_after(task)
                self._advance()
        elif (release := self._rollout.release) is not None:
            if self._rollout.ready(release):
                self._rollout.install(release)
        elif (archive := self._upgrader.wanted) and self._downloads.want_all([archive], time.monotonic()):
            self._report_upgrade(self._upgrader.stage())

    def _must_stop(self) -> bool:
        """Between two batches: see to what has come in; is it over, or is there a task that does not wait?"""
        self._manager.alive()
        while (item := self._session.receive(0)) is not None:
            self._handle(item)
        return self._stop.is_set() or self._tasks.replaced

    def _sweep_after(self, task: Task) -> None:
        others = [ref for ref in (self._upgrader.wanted, self._measurer.wanted) if ref]
        in_use = [*self._tasks.in_use(task), *self._rollout.in_use(), *others]
        self._blobs.keep_only([ref.digest for ref in in_use])

    def _say_how_the_model_does(self) -> None:
        if self._may_look():
            self._rollout.say_how_the_model_does()

    def _may_look(self) -> bool:
        """Whether asking the active model neither holds a task up nor gets into a measurement's figures."""
        return self._tasks.newest is None and not self._measurer.measuring
