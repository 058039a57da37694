"""The way in for results: they are checked, made durable together, answered, and told to the round machine.

Whatever a device sends, it gets an answer, and the same answer each time it asks again: the ledger
knows. Nothing a device sends can stop the server. When `settle` is called: `broker_server.settling`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from broker_server import clock
from broker_server.checks import RefusedError, max_payload_bytes
from broker_server.rounds.machine import Reported
from broker_server.stages import Stages
from broker_server.store.ledger import TaskRow
from broker_server.uploads import Uploads
from edge_client.session.blobs import BlobError
from edge_client.wire.chunks import Chunk
from edge_client.wire.fields import Message
from edge_client.wire.rounds import Receipt, Result

Tell = Callable[[str, Message], None]
OnAccepted = Callable[[str, Result], None]
OnFailure = Callable[[str, str], None]  # device, reason; called once for each device and task

OVER = "the task is over or not for this device"


@dataclass(frozen=True, slots=True)
class _Offer:
    """A result that waits to be decided on.

    Attributes:
        row: its task.
        at: when it came, by the server's clock.
        problem: why it is refused unseen; empty for none.
    """

    device: str
    row: TaskRow
    result: Result
    payload: bytes
    at: float
    problem: str = ""


class Intake:
    """Takes results of the stage at work."""

    def __init__(
        self, stages: Stages, uploads: Uploads, tell: Tell, accepted: OnAccepted, failed: OnFailure
    ) -> None:
        self._stages = stages
        self._uploads = uploads
        self._tell = tell
        self._accepted = accepted
        self._failed = failed
        self._waiting: dict[str, _Offer] = {}

    @property
    def waiting(self) -> Collection[str]:
        """Devices whose results wait for `settle`."""
        return self._waiting.keys()

    @property
    def waiting_bytes(self) -> int:
        """Of their payloads."""
        return sum(len(offer.payload) for offer in self._waiting.values())

    def on_result(self, device: str, result: Result, body: bytes) -> None:
        """A result, with its payload or the offer of one."""
        row = self._open_task(device, result)
        if row is None:
            return
        if result.status == "failed":
            self._wait(device, row, result, problem=result.reason or "no reason given")
        elif result.payload is None or body:
            self._wait(device, row, result, body)
        elif result.payload.size > (limit := max_payload_bytes(row.task, self._stages.parameters)):
            problem = f"a payload of {result.payload.size} bytes, at most {limit}"
            self._wait(device, row, result, problem=problem)
        elif (payload := self._uploads.offer(device, result, result.payload, time.monotonic())) is not None:
            self._wait(device, row, result, payload)

    def on_chunk(self, device: str, chunk: Chunk, data: bytes) -> None:
        """A chunk of an upload; raise `RefusedError` if it was not granted."""
        complete = self._uploads.add_chunk(device, chunk, data, time.monotonic())
        if complete is None:
            return
        result, payload = complete
        if (row := self._open_task(device, result)) is not None:
            self._wait(device, row, result, payload)

    def settle(self) -> list[Reported]:
        """Decide on all that wait in one transaction, then answer; what the round machine is to be told."""
        offers, self._waiting = self._waiting.values(), {}
        with self._stages.ledger.transaction():
            decided = [(offer, *self._decided(offer)) for offer in offers]
        events = [self._answered(*each) for each in decided]
        return [event for event in events if event is not None]

    def _wait(
        self, device: str, row: TaskRow, result: Result, payload: bytes = b"", *, problem: str = ""
    ) -> None:
        self._waiting[device] = _Offer(device, row, result, payload, clock.now(), problem)

    def _open_task(self, device: str, result: Result) -> TaskRow | None:
        """The task of a result that is still to be decided on; anything else is answered here.

        A result of an earlier try of the stage at work is as good as one of the newest. Where late results
        count, one of an earlier stage does too; a device that has one in this stage keeps the next for later.
        """
        ledger = self._stages.ledger
        if (known := ledger.result(result.task, device)) is not None:
            same = known.payload == result.payload
            reason = "" if same else "another result of this device counts"
            self._tell(device, Receipt(task=result.task, accepted=same, reason=reason))
            return None
        row = ledger.task(result.task)
        stale = None if row is None else self._stages.staleness(row)
        if row is None or stale is None or device not in row.task.cohort:
            self._tell(device, Receipt(task=result.task, accepted=False, reason=OVER))
            return None
        if ledger.has_result(self._stages.index, device):
            if self._stages.late.counts and row.task.kind == "train":
                return None  # counts in the next round: the device offers it again when that begins
            reason = "this device's result of another try counts"
            self._tell(device, Receipt(task=result.task, accepted=False, reason=reason))
            return None
        return row

    def _decided(self, offer: _Offer) -> tuple[str, bool]:
        """In the ledger: why a result is refused, empty where it counts; and whether that is news."""
        problem = offer.problem or self._problem(offer)
        if not problem:
            return "", True
        return problem, self._stages.ledger.keep_failure(offer.result.task, offer.device, problem[:500])

    def _problem(self, offer: _Offer) -> str:
        task, result = offer.row.task, offer.result
        try:
            decoded = self._stages.check(task, result, offer.payload)
        except (RefusedError, BlobError) as exc:
            return str(exc)
        self._stages.accept(task, offer.device, result, offer.payload, offer.at, decoded)
        return ""

    def _answered(self, offer: _Offer, problem: str, news: bool) -> Reported | None:
        device, result = offer.device, offer.result
        self._tell(device, Receipt(task=result.task, accepted=not problem, reason=problem[:500]))
        if not news:
            return None
        if problem:
            self._failed(device, problem)
            return Reported(device, problem[:200])
        self._accepted(device, result)
        return Reported(device)
