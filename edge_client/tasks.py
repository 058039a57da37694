"""The device's newest task: taken on, its blobs fetched, carried out unless it is replaced before."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_client.config import EdgeConfig
from edge_client.data.errors import reason_for_server
from edge_client.extractors import extractor_blobs
from edge_client.offering import Offering
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.session.downloads import Downloads
from edge_client.state import DeviceState
from edge_client.versions import blobs_to, wanted_blobs
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import Result, Task
from edge_client.work import Outcome, TaskCancelledError, Workshop

log = logging.getLogger(__name__)


class Tasks:
    """One task at a time, and the one after it.

    Attributes:
        newest: that is to be carried out or at work; None where there is none for this device.
        replaced: the task at work is over, by one that does not wait for it.
    """

    def __init__(
        self,
        config: EdgeConfig,
        state: DeviceState,
        blobs: BlobStore,
        downloads: Downloads,
        workshop: Workshop,
        offering: Offering,
        now: Callable[[], float],
    ) -> None:
        self._name = config.name
        self._state = state
        self._blobs = blobs
        self._downloads = downloads
        self._workshop = workshop
        self._offering = offering
        self._now = now
        self.newest: Task | None = None
        self.replaced = False

    def on_task(self, task: Task, body: bytes = b"") -> None:
        """Take on a task that is newer than the one at hand, and ask for what it needs beside its body."""
        known = max(self._state.memory.task, self.newest.number if self.newest else 0)
        if task.number <= known:
            return  # retained, or replayed
        self.newest = task if self._name in task.cohort else None
        self.replaced = self.replaced or not task.patient
        self._downloads.forget_all()
        if self.newest is None:
            return
        log.info("task %d: %s, round %d", task.number, task.kind, task.round)
        self._offering.soon()
        self._keep(body)
        self.ready(task)

    def _keep(self, body: bytes) -> None:
        """The blob that came with the newest task, if it is one that this device wants."""
        for ref in self._wanted(self.newest) if body and self.newest else []:
            if ref.size == len(body):
                self._blobs.hold(ref, body)

    def ready(self, task: Task) -> bool:
        """Ask for what a task needs; True when all of it is here."""
        return self._downloads.want_all(self._wanted(task), self._now())

    def carry_out(self, task: Task, must_stop: Callable[[], bool]) -> bool:
        """Work on a task whose blobs are here until its result is written down; False if interrupted.

        Raises:
            BlobError: something is to be fetched again; the task is tried again then.
        """
        self.replaced = False
        try:
            outcome = self._workshop.perform(task, must_stop)
        except TaskCancelledError:
            log.info("task %d: interrupted", task.number)
            return False
        except BlobError:
            raise
        except Exception as exc:  # whatever a task brings out in a trainer or in the data
            log.exception("task %d failed", task.number)
            outcome = Outcome(Result(task=task.number, status="failed", reason=reason_for_server(exc)))
        self._offering.keep(outcome)
        self.newest = None if self.newest is task else self.newest
        return True

    def in_use(self, done: Task) -> list[BlobRef]:
        """What a sweep after a task leaves: its program, and what has come for the next one meanwhile."""
        refs = [done.bundle, *extractor_blobs(self._blobs, done.extractor)]
        if (newer := self.newest) is not None:
            refs += [newer.bundle, *blobs_to(newer.weights), *blobs_to(newer.control)]
            refs += extractor_blobs(self._blobs, newer.extractor)
            refs += [newer.ranges.program] if newer.ranges else []
        return [ref for ref in refs if ref]

    def _wanted(self, task: Task) -> list[BlobRef]:
        held, control = self._state.memory.weights_digest, self._state.memory.control_digest
        if task.bundle and task.bundle.digest != self._state.memory.bundle:
            held = control = ""
        refs = wanted_blobs(task.bundle, task.weights, held)
        refs += extractor_blobs(self._blobs, task.extractor)
        refs += [task.ranges.program] if task.ranges else []
        return refs + wanted_blobs(None, task.control, control)
