"""The agent's half of a fleet's benchmark: takes a signed request, has a child measure, says what came out.

::

    measure/memory.json    the newest request that was answered, and the answer
    measure/model.tflite   a copy of the active model, while it is measured

The model never runs in the agent. A task or a release comes first: it ends the child, and the measurement
begins again afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edge_client.files import write_atomically
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.slots import FOLDER as MODELS
from edge_client.inference.slots import ModelSlots
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.measure.memory import MODEL, Memories
from edge_client.measure.process import MeasuringProcess
from edge_client.session.blobs import BlobStore
from edge_client.session.downloads import Downloads
from edge_client.wire.blobs import BlobRef, sha256
from edge_client.wire.errors import WireError
from edge_client.wire.latency import LatencyProgress, LatencyReport, LatencyRequest
from edge_client.wire.measurement import Measurement, MeasurePlan

log = logging.getLogger(__name__)

FOLDER = "measure"
ROOM = 3  # times the file: its chunks, the file, and as much again for everyone else
MAX_REASON = 500
Answer = LatencyReport | LatencyProgress


class Process(Protocol):
    """What measures: `edge_client.measure.process.MeasuringProcess`."""

    def result(self) -> Measurement | None:
        """What it came to; None while it is at work; raise `MeasureError` where there is nothing."""

    def end(self) -> None:
        """End it."""


class Measurer:
    """One device's measurements. The caller sends what the methods return.

    Args:
        fleet: the device's own.
        state: the agent's directory.
        blobs, downloads: where files that are sent come in.
        now: seconds since 1970.
        start: starts what measures.
    """

    def __init__(
        self,
        fleet: str,
        state: Path,
        blobs: BlobStore,
        downloads: Downloads,
        *,
        now: Callable[[], float] = time.time,
        start: Callable[[Path, MeasurePlan], Process] = MeasuringProcess,
    ) -> None:
        self._fleet, self._blobs, self._downloads = fleet, blobs, downloads
        self._folder = state / FOLDER
        self._slots = ModelSlots(state / MODELS)
        self._now, self._start = now, start
        self._memories = Memories(self._folder, blobs)
        self._asked: LatencyRequest | None = None
        self._said = LatencyProgress(number=0, state="waiting")
        self._wanted: BlobRef | None = None
        self._ends: float | None = None  # of the request at work, in monotonic seconds
        self._version = 0  # of the model that is measured; 0 for a file that was sent
        self._process: Process | None = None
        self._replayed: set[int] = set()  # old requests that were refused

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_process()

    @property
    def wanted(self) -> BlobRef | None:
        """The file that has been or is being fetched for the request at work."""
        return self._wanted

    @property
    def measuring(self) -> bool:
        """Whether a model is being measured now: whatever else takes time would be in its figures."""
        return self._process is not None

    def on_request(self, request: LatencyRequest, busy: str = "") -> Answer | None:
        """Take a request on, or say at once why not; a known one gets its answer again.

        Raises:
            WireError: it is another fleet's.
        """
        if request.fleet != self._fleet:
            raise WireError(f"latency request of fleet {request.fleet}")
        if request.number == self._memories.number:
            return self._memories.report
        if self._asked is not None and request.number == self._asked.number:
            self._asked = replace(self._asked, left_s=request.left_s)
            return self._said
        newest = max(self._memories.number, self._asked.number if self._asked else 0)
        if request.number < newest:
            return self._refuse_replay(request, newest)
        own = self._active()
        if reason := self._objection(request, own):
            return LatencyReport(number=request.number, outcome="refused", reason=reason)
        self._forget()
        self._want(None if _is_own(request, own) else request.model)
        self._asked = request
        self._said = LatencyProgress(number=request.number, state="waiting", reason=busy)
        what = request.model.digest[:12] if request.model else "the active model"
        log.info("request %d: measure %s", request.number, what)
        return self._said

    def advance(self, at: float, busy: str = "") -> Answer | None:
        """Do the next thing that can be done; what there is to say of it.

        Args:
            at: monotonic seconds, for downloads.
            busy: why nothing can be measured now; empty where it can.

        Raises:
            OSError: the disk; nothing is decided.
        """
        if self._asked is None:
            return None
        if self._process is None and self._is_over(self._asked, at):
            why = self._said.reason or self._said.state
            return self._conclude("refused", f"expired before it could be measured: {why}")
        if busy:
            self._end_process()
            return self._say("waiting", busy)
        try:
            return self._measure(self._asked, at)
        except UnrunnableError as exc:
            return self._conclude("refused", str(exc))
        except MeasureError as exc:
            return self._conclude("failed", str(exc))

    # ---- inside ----

    def _is_over(self, request: LatencyRequest, at: float) -> bool:
        """By this device's clock, or by the seconds that have passed since somebody asked last."""
        ends = at + request.left_s
        self._ends = ends if self._ends is None else min(self._ends, ends)
        return self._now() > request.expires or at > self._ends

    def _want(self, file: BlobRef | None) -> None:
        """What is fetched is written down before: a restarted agent removes it."""
        self._memories.fetching(file)
        self._wanted = file

    def _measure(self, request: LatencyRequest, at: float) -> Answer | None:
        if self._process is None:
            file = self._file(request, at)
            if file is None:
                return self._say("fetching")
            self._process = self._start(file, request.plan)
            return self._say("measuring")
        try:
            measurement = self._process.result()
        except MeasureError:
            self._end_process()
            raise
        if measurement is None:
            return None
        self._end_process()  # should the disk be full now, it is measured again
        if request.model is not None and measurement.model != request.model.digest:
            raise MeasureError("the file was damaged on the disk")
        return self._conclude("measured", measurement=replace(measurement, version=self._version))

    def _file(self, request: LatencyRequest, at: float) -> Path | None:
        """What is to be measured; None while it is not here."""
        if self._wanted is None:
            own = self._active()
            if own is None or not _is_own(request, own):  # another model has become active meanwhile
                self._want(request.model)
                if self._wanted is None:
                    raise MeasureError("it has no model any more")
            else:
                self._version = own.version
                write_atomically(self._folder / MODEL, own.tflite)
                return self._folder / MODEL
        self._version = 0
        here = self._downloads.want(self._wanted, at)
        return self._blobs.path(self._wanted.digest) if here else None

    def _objection(self, request: LatencyRequest, own: ActiveModel | None) -> str:
        now = int(self._now())
        if now > request.expires:
            return f"it expired {now - request.expires} s ago, by this device's clock"
        if request.model is None:
            return "" if own else "it has no model yet: release one, or name a file to be measured"
        if not _is_own(request, own) and not self._blobs.has(request.model):
            free = shutil.disk_usage(self._folder.parent).free
            if free < ROOM * request.model.size:
                return f"no room: {free} bytes are free, {ROOM * request.model.size} are asked for"
        return ""

    def _refuse_replay(self, request: LatencyRequest, newest: int) -> LatencyReport | None:
        if request.number in self._replayed:
            return None  # once: a broker may hold an old one for ever
        self._replayed.add(request.number)
        reason = f"a replay: request {request.number}, this device has seen {newest}"
        return LatencyReport(number=request.number, outcome="refused", reason=reason)

    def _say(self, state: str, reason: str = "") -> LatencyProgress | None:
        """Once, where it is new."""
        said = LatencyProgress(number=self._said.number, state=state, reason=reason)  # type: ignore[arg-type]
        if said == self._said:
            return None
        self._said = said
        return said

    def _conclude(
        self, outcome: str, reason: str = "", measurement: Measurement | None = None
    ) -> LatencyReport:
        report = LatencyReport(
            number=self._said.number,
            outcome=outcome,  # type: ignore[arg-type]
            reason=reason[:MAX_REASON],
            measurement=measurement,
        )
        self._memories.concluded(report)
        self._forget()
        log.info("request %d: %s %s", report.number, report.outcome, report.reason)
        return report

    def _forget(self) -> None:
        """The request at work is over: nothing of it is left."""
        self._end_process()
        (self._folder / MODEL).unlink(missing_ok=True)
        if self._wanted is not None:
            self._downloads.forget(self._wanted)
            self._blobs.remove(self._wanted.digest)
        self._asked = self._wanted = self._ends = None

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _active(self) -> ActiveModel | None:
        with contextlib.suppress(SlotError):
            return self._slots.active()
        return None


def _is_own(request: LatencyRequest, own: ActiveModel | None) -> bool:
    """Whether the model to be measured is the one that is active."""
    if own is None:
        return False
    return request.model is None or sha256(own.tflite) == request.model.digest
