"""The edge client: one device of the fleet, from its connection to its receipts.

One thread does everything in turn; the MQTT library's own thread only fills the session's inbox, so
the connection stays alive while the device trains. Every exchange has its answer end to end: what is
not answered is sent again, and everything sent again is harmless.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import random
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_client import health
from edge_client.config import EdgeConfig
from edge_client.data import DataSource, summarise
from edge_client.data.errors import reason_for_server
from edge_client.device.slots import TRIAL_S, passed
from edge_client.enrolment.steps import Steps
from edge_client.extractors import extractor_blobs
from edge_client.inference.aftercare import Aftercare
from edge_client.inference.slots import FOLDER
from edge_client.measure.agent import Measurer
from edge_client.releases import Installer
from edge_client.runtime import runtime_name, runtime_version
from edge_client.sd_notify import ServiceManager
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.session.downloads import Downloads
from edge_client.session.mqtt import ConnectionChange, Incoming, LastWill, Session, SessionError
from edge_client.state import DeviceState
from edge_client.upgrade.agent import Upgrader
from edge_client.versions import wanted_blobs
from edge_client.wire.blobs import BlobRef, split
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.errors import WireError
from edge_client.wire.fields import Message
from edge_client.wire.frame import Envelope, decode, encode
from edge_client.wire.latency import LatencyRequest
from edge_client.wire.presence import Hello, HelloRequest, Presence
from edge_client.wire.rollout import Release
from edge_client.wire.rounds import Receipt, Result, Task
from edge_client.wire.signing import Verifier
from edge_client.wire.topics import CHUNK, MESSAGE, RELEASE, STATUS, TASK, Topics
from edge_client.wire.upgrade import Upgrade, UpgradeReport
from edge_client.work import Outcome, TaskCancelledError, Workshop

log = logging.getLogger(__name__)

INLINE_BYTES = 64 * 1024  # a payload up to this travels inside its result: no grant, one message
ACK_TIMEOUT_S = 60.0  # one chunk at 4.4 KB/s takes half of this
OFFER_RETRY_S, LAST_OFFER_RETRY_S = 5.0, 120.0  # between offers of a result without a receipt
GIVE_UP_S = 120.0  # on a receipt, once a newer task waits, the result is offered and the broker is there
FIRST_REST_S, LAST_REST_S = 1.0, 60.0  # after the disk failed; doubles
LONGEST_SLEEP_S = 1.0  # SIGTERM sets an event that nothing here waits on


class Agent:
    """One device. `run` returns when `stop` is set."""

    def __init__(self, config: EdgeConfig, manager: ServiceManager | None = None) -> None:
        self._config = config
        self._manager = manager or ServiceManager()
        self._topics = Topics(config.fleet)
        self._verifier = Verifier(config.server_key)
        self._state = DeviceState(Path(config.state))
        self._blobs = BlobStore(Path(config.state) / "blobs")
        self._rng = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._downloads = Downloads(self._blobs, self._rng)
        self._workshop = Workshop(config, self._state, self._blobs, self._manager.alive)
        self._installer = Installer(self._state, self._blobs, self._workshop)
        self._aftercare = Aftercare(
            self._state.directory / FOLDER,
            self._workshop.load_data,
            time.monotonic(),
            threads=config.threads,
        )
        self._source = DataSource.parse(config.data.source, label_column=config.data.label_column)
        self._summary = summarise(
            self._source,
            validation_fraction=config.data.validation_fraction,
            seed=config.data.seed,
            progress=self._counting,
        )
        self._process = secrets.token_hex(8)
        self._session = Session(
            config.broker,
            config.name,
            self._topics.device_filters(config.name),
            will=LastWill(
                self._topics.up(config.name, STATUS),
                encode(Presence(state="offline", session=self._process)),
            ),
        )
        self._upgrader = Upgrader(self._state.directory, self._blobs)
        self._measurer = Measurer(config.fleet, self._state.directory, self._blobs, self._downloads)
        self._task: Task | None = None
        self._replaced = False  # the task at work, by one that does not wait for it
        self._release: Release | None = None
        self._release_frame = b""  # as it was signed
        self._replayed: set[int] = set()  # orders of old releases that were reported
        self._offer_at = 0.0
        self._offer_retry_s = OFFER_RETRY_S
        self._give_up_at: float | None = None
        self._joined = False  # the broker has been reached by this process
        self._rest_until, self._rest_s = 0.0, FIRST_REST_S
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
            self._say_goodbye()

    # ---- one turn of the loop ----

    def _step(self) -> None:
        item = self._session.receive(self._sleep_s())
        while item is not None and not self._stop.is_set():  # all of it: before asking for what is here
            self._handle(item)
            item = self._session.receive(0)
        if self._session.connected and time.monotonic() >= self._rest_until:
            with self._troubles("working"):
                self._request_chunks()
                self._measure()
                self._advance()
                self._say_how_the_model_does()
                self._rest_s = FIRST_REST_S

    def _handle(self, item: Incoming | ConnectionChange) -> None:
        """See to a message or to news of the connection; between two batches of training as well."""
        with self._troubles(item.topic if isinstance(item, Incoming) else "connection"):
            if isinstance(item, ConnectionChange):
                self._on_connection(item)
            else:
                self._on_message(item)

    @contextlib.contextmanager
    def _troubles(self, where: str) -> Iterator[None]:
        """What may go wrong without ending the agent: a bad message, a lost connection, a full disk."""
        try:
            yield
        except WireError as exc:
            log.warning("ignored a message on %s: %s", where[:200], exc)
        except SessionError as exc:
            log.info("%s; will try again", exc)
        except (BlobError, OSError) as exc:
            log.warning("%s: %s; goes on in %g s", where[:200], exc, self._rest_s)
            self._rest_until = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, LAST_REST_S)

    def _sleep_s(self) -> float:
        if not self._session.connected:
            return LONGEST_SLEEP_S
        now = time.monotonic()
        due = [now + LONGEST_SLEEP_S]
        if (request := self._downloads.next_due()) is not None:
            due.append(request)
        if self._state.pending:
            due.append(self._offer_at)
        if (look := self._aftercare.next_due()) is not None:
            due.append(look)
        return min(max(0.0, min(due) - now, self._rest_until - now), LONGEST_SLEEP_S)

    def _on_connection(self, change: ConnectionChange) -> None:
        self._give_up_at = None
        if not change.connected:
            log.info("not connected: %s", change.reason)
            self._manager.status(f"not connected: {change.reason}")
            return
        log.info("connected")
        self._note_joined()
        self._downloads.reconnected(time.monotonic())
        self._offer_soon()
        self._send(Presence(state="online", session=self._process), STATUS, retain=True)
        self._send(self._hello(), MESSAGE)
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

    def _on_message(self, incoming: Incoming) -> None:
        channel = incoming.topic.rsplit("/", 1)[-1]
        if channel == CHUNK:
            self._on_chunk(decode(incoming.payload), incoming.at)
            return
        if channel == RELEASE and not incoming.payload:
            self._release = None  # the retained one was taken away: it is not to be installed any more
            self._downloads.forget_all()  # a task asks again for its own
            return
        message = decode(incoming.payload, topic=incoming.topic, verifier=self._verifier).message
        if channel == TASK and isinstance(message, Task):
            self._on_task(message)
        elif channel in (RELEASE, MESSAGE) and isinstance(message, Release):
            self._on_release(message, incoming.payload)
        elif channel == MESSAGE and isinstance(message, Grant):
            self._on_grant(message)
        elif channel == MESSAGE and isinstance(message, Receipt):
            self._on_receipt(message)
        elif channel == MESSAGE and isinstance(message, HelloRequest):
            self._send(self._hello(), MESSAGE)
        elif channel == MESSAGE and isinstance(message, Upgrade):
            self._on_upgrade(message, incoming.payload)
        elif channel == MESSAGE and isinstance(message, LatencyRequest):
            if (answer := self._measurer.on_request(message, self._occupation())) is not None:
                self._send(answer, MESSAGE)
        else:
            raise WireError(f"{type(message).__name__} does not belong on channel {channel[:20]!r}")

    def _on_chunk(self, envelope: Envelope, at: float) -> None:
        chunk = envelope.message
        if not isinstance(chunk, Chunk):
            raise WireError(f"{type(chunk).__name__} does not belong on a chunk channel")
        self._downloads.on_chunk(chunk.blob, chunk.index, envelope.body, at)

    # ---- tasks ----

    def _on_task(self, task: Task) -> None:
        if task.fleet != self._config.fleet:
            raise WireError(f"task of fleet {task.fleet}")
        known = max(self._state.memory.task, self._task.number if self._task else 0)
        if task.number <= known:
            return  # retained, or replayed
        self._task = task if self._config.name in task.cohort else None
        self._replaced = self._replaced or not task.patient
        self._downloads.forget_all()
        if self._task is None:
            return
        log.info("task %d: %s, round %d", task.number, task.kind, task.round)
        self._offer_soon()
        self._want(task)

    def _want(self, work: Task | Release) -> bool:
        """Fetch what a task or release needs; True when all of it is here."""
        if isinstance(work, Release):
            return self._fetch(self._installer.wanted(work))
        held, control = self._state.memory.weights_digest, self._state.memory.control_digest
        if work.bundle and work.bundle.digest != self._state.memory.bundle:
            held = control = ""
        refs = wanted_blobs(work.bundle, work.weights, held)
        refs += extractor_blobs(self._blobs, work.extractor)
        refs += [work.ranges.program] if work.ranges else []
        return self._fetch(refs + wanted_blobs(None, work.control, control))

    def _fetch(self, refs: list[BlobRef]) -> bool:
        missing = [ref for ref in refs if not self._downloads.want(ref, time.monotonic())]  # ask for all
        return not missing

    def _advance(self) -> None:
        """Do the next thing that can be done: settle a result, carry out a task, install a release."""
        if pending := self._state.pending:
            self._offer(pending.result, pending.payload)
        elif self._task is not None:
            if self._want(self._task):
                self._carry_out(self._task)
        elif self._release is not None:
            if self._want(self._release):
                self._install(self._release)
        elif (archive := self._upgrader.wanted) is not None and self._fetch([archive]):
            self._report_upgrade(self._upgrader.stage())

    def _carry_out(self, task: Task) -> None:
        self._replaced = False
        try:
            outcome = self._workshop.perform(task, self._must_stop)
        except TaskCancelledError:
            log.info("task %d: interrupted", task.number)
            return
        except BlobError:
            raise  # it is fetched again, and the task is tried again
        except Exception as exc:  # whatever a task brings out in a trainer or in the data
            log.exception("task %d failed", task.number)
            outcome = Outcome(Result(task=task.number, status="failed", reason=reason_for_server(exc)))
        self._state.keep_pending(outcome.result, outcome.payload, outcome.kept)
        self._task = None if self._task is task else self._task
        self._give_up_at = None
        self._offer_soon()
        self._blobs.keep_only(self._blobs_in_use(task))
        self._advance()

    def _must_stop(self) -> bool:
        """Between two batches: see to what has come in; is it over, or is there a task that does not wait?"""
        self._manager.alive()
        while (item := self._session.receive(0)) is not None:
            self._handle(item)
        return self._stop.is_set() or self._replaced

    def _blobs_in_use(self, task: Task) -> list[str]:
        refs = [task.bundle, *extractor_blobs(self._blobs, task.extractor)]
        if (newer := self._task) is not None:  # its blobs have come while this one was at work
            lines = [line for line in (newer.weights, newer.control) if line]
            refs += [newer.bundle, *(line.full for line in lines)]
            refs += extractor_blobs(self._blobs, newer.extractor)
            refs += [step.blob for line in lines for step in line.steps]
            refs += [newer.ranges.program] if newer.ranges else []
        if release := self._release:  # may be on its way
            steps = (step.blob for step in release.weights.steps)
            refs += [release.model, release.bundle, release.weights.full, *steps]
            refs += extractor_blobs(self._blobs, release.extractor)
            refs += [source.blob for source in release.sources]
        refs += [self._upgrader.wanted, self._measurer.wanted]
        return [ref.digest for ref in refs if ref]

    # ---- results ----

    def _offer_soon(self) -> None:
        self._offer_at, self._offer_retry_s = 0.0, OFFER_RETRY_S

    def _offer(self, result: Result, payload: bytes) -> None:
        now = time.monotonic()
        waited = self._give_up_at is not None and now > self._give_up_at
        if self._task is not None and waited and not _moves_a_variate(result):
            log.warning("task %d: no receipt, the result is given up", result.task)
            self._state.settle(accepted=False)
            self._give_up_at = None
            return
        if now < self._offer_at:
            return
        self._offer_at = now + self._offer_retry_s * self._rng.uniform(0.75, 1.25)
        self._offer_retry_s = min(2 * self._offer_retry_s, LAST_OFFER_RETRY_S)
        self._send(result, MESSAGE, body=payload if len(payload) <= INLINE_BYTES else b"")
        if self._task is not None and self._give_up_at is None:
            self._give_up_at = now + GIVE_UP_S

    def _on_grant(self, grant: Grant) -> None:
        pending = self._state.pending
        if pending is None or pending.result.task != grant.task:
            return
        ref = pending.result.payload
        if ref is None or ref.digest != grant.blob or max(grant.chunks) >= ref.count:
            raise WireError("a grant for chunks that this device does not have")
        parts = split(pending.payload)
        topic = self._topics.up(self._config.name, CHUNK)
        self._give_up_at = None  # the server is at it
        try:
            self._session.publish_many(
                ((topic, encode(Chunk(blob=ref.digest, index=i), parts[i])) for i in grant.chunks),
                timeout_s=ACK_TIMEOUT_S,
            )
        finally:  # it takes minutes on a slow link, and an offer meanwhile is answered with the same grant
            self._offer_retry_s = OFFER_RETRY_S
            self._offer_at = time.monotonic() + self._offer_retry_s

    def _on_receipt(self, receipt: Receipt) -> None:
        pending = self._state.pending
        if pending is None or pending.result.task != receipt.task:
            return
        log.info(
            "task %d: %s", receipt.task, "accepted" if receipt.accepted else f"refused: {receipt.reason}"
        )
        self._state.settle(accepted=receipt.accepted)
        self._give_up_at = None

    # ---- releases ----

    def _on_release(self, release: Release, frame: bytes) -> None:
        if release.fleet != self._config.fleet:
            raise WireError(f"release of fleet {release.fleet}")
        memory = self._state.memory
        if release.cohort and self._config.name not in release.cohort:
            return
        if release.order == memory.release and memory.release_report is not None:
            self._send(memory.release_report, MESSAGE)  # the server asks again: it did not hear
        elif release.order > max(memory.release, self._release.order if self._release else 0):
            self._release, self._release_frame = release, frame
            self._want(release)
        elif release.order < memory.release and release.order not in self._replayed:
            self._replayed.add(release.order)  # once: a broker may hold an old one for ever
            self._send(self._installer.replayed(release), MESSAGE)

    def _install(self, release: Release) -> None:
        """Decide on a release; one that cannot be decided on now, for the disk, stays and is tried again."""
        report = self._installer.install(release, self._release_frame)
        self._release = None
        self._state.remember(replace(self._state.memory, release=release.order, release_report=report))
        self._installer.forget(release)
        self._aftercare.begin(time.monotonic())
        log.info("release %d: %s (%s)", release.version, report.outcome, report.reason)
        self._send(report, MESSAGE)

    def _say_how_the_model_does(self) -> None:
        now = time.monotonic()
        if self._task is None and self._aftercare.due(now) and (health := self._aftercare.report(now)):
            self._send(health, MESSAGE)

    # ---- upgrades of the client itself ----

    def _on_upgrade(self, upgrade: Upgrade, frame: bytes) -> None:
        if upgrade.fleet != self._config.fleet:
            raise WireError(f"upgrade of fleet {upgrade.fleet}")
        log.info("upgrade %d: client %s, build %d", upgrade.number, upgrade.version, upgrade.build)
        if (report := self._upgrader.on_upgrade(upgrade, frame)) is not None:
            self._report_upgrade(report)

    def _report_upgrade(self, report: UpgradeReport) -> None:
        log.info("upgrade %d: %s %s", report.number, report.outcome, report.reason)
        self._send(report, MESSAGE)

    # ---- measuring for the fleet ----

    def _measure(self) -> None:
        """Before `_advance`, which may train for an hour: a child that measures is ended first."""
        if (answer := self._measurer.advance(time.monotonic(), self._occupation())) is not None:
            self._send(answer, MESSAGE)

    def _occupation(self) -> str:
        if self._task is not None:
            return f"it has a task: {self._task.kind}"
        return "a release is on its way" if self._release is not None else ""

    # ---- sending ----

    def _request_chunks(self) -> None:
        for request in self._downloads.due(time.monotonic()):
            self._send(request, MESSAGE)

    def _send(self, message: Message, channel: str, *, body: bytes = b"", retain: bool = False) -> None:
        topic = self._topics.up(self._config.name, channel)
        self._session.publish(topic, encode(message, body), retain=retain)

    def _hello(self) -> Hello:
        return Hello(
            session=self._process,
            version=_own_version(),
            architecture=health.architecture(),
            board=health.board(),
            python=platform.python_version(),
            runtime=f"{runtime_name()} {runtime_version()}",
            cores=health.cores(),
            memory_mb=health.memory_mb(),
            data=self._summary,
            health=health.health(self._state.directory),
            model_version=self._installer.active_version(),
        )

    def _say_goodbye(self) -> None:
        try:
            topic = self._topics.up(self._config.name, STATUS)
            farewell = encode(Presence(state="offline", session=self._process))
            self._session.publish(topic, farewell, retain=True, timeout_s=2.0)
        except SessionError:
            log.info("left without a goodbye: the broker will send the last will")


def _moves_a_variate(result: Result) -> bool:
    """Whether it may have moved the fleet's control variate (SCAFFOLD), which this device's own must follow.

    Such a result is not given up: the receipt says which of the two it was, and a server that lives answers
    every offer. Given up and counted all the same, the two would stay apart for the rest of the run.
    """
    return result.training is not None and result.training.variate_bytes > 0


def _own_version() -> str:
    try:
        return version("bramble")
    except PackageNotFoundError:
        return "unreleased"
