"""The way in for results: each is checked, made durable with others, answered, and told to the round machine.

Whatever a device sends, it gets an answer, and the same answer each time it asks again: the ledger
knows. Nothing a device sends can stop the server. When `settle` is called: `broker_server.settling`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from broker_server.checks import RefusedError, max_payload_bytes
from broker_server.decoded import DecodedResult
from broker_server.rounds.machine import Reported
from broker_server.stages import Stages
from broker_server.store.ledger import TaskRow
from broker_server.uploads import Uploads
from edge_client.session.blobs import BlobError
from edge_client.wire.chunks import Chunk
from edge_client.wire.fields import Message
from edge_client.wire.rounds import Receipt, Result, Task

Tell = Callable[[str, Message], None]
OnAccepted = Callable[[str, Result], None]
OnFailure = Callable[[str, str], None]  # device, reason; called once for each device and task

OVER = "the task is over or not for this device"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A result that waits to become durable.

    Attributes:
        came: when, by the server's clock: before the server got round to it.
        decoded: what its update comes to.
        problem: why it is refused; empty where it is to count.
    """

    device: str
    task: Task
    result: Result
    payload: bytes
    came: float
    decoded: DecodedResult | None = None
    problem: str = ""

    @property
    def nbytes(self) -> int:
        """Of memory, about."""
        return len(self.payload) + (self.decoded.nbytes if self.decoded else 0)


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
        self._waiting: dict[str, _Checked] = {}

    @property
    def waiting(self) -> Collection[str]:
        """Devices whose results wait for `settle`."""
        return self._waiting.keys()

    @property
    def waiting_bytes(self) -> int:
        """Of memory that they take, about."""
        return sum(each.nbytes for each in self._waiting.values())

    def on_result(self, device: str, result: Result, body: bytes, came: float) -> None:
        """A result, with its payload or the offer of one; when it came, by the server's clock."""
        row = self._open_task(device, result)
        if row is None:
            return
        if result.status == "failed":
            self._wait(_refused(device, row, result, result.reason or "no reason given", came))
        elif result.payload is None or body:
            self._wait(self._checked(device, row, result, body, came))
        elif result.payload.size > (limit := max_payload_bytes(row.task, self._stages.parameters)):
            problem = f"a payload of {result.payload.size} bytes, at most {limit}"
            self._wait(_refused(device, row, result, problem, came))
        elif (payload := self._uploads.offer(device, result, result.payload, time.monotonic())) is not None:
            self._wait(self._checked(device, row, result, payload, came))

    def on_chunk(self, device: str, chunk: Chunk, data: bytes, came: float) -> None:
        """A chunk of an upload, and when it came; raise `RefusedError` if it was not granted."""
        complete = self._uploads.add_chunk(device, chunk, data, time.monotonic())
        if complete is None:
            return
        result, payload = complete
        if (row := self._open_task(device, result)) is not None:
            self._wait(self._checked(device, row, result, payload, came))

    def settle(self) -> list[Reported]:
        """Make all that wait durable in one transaction, then answer; what to tell the round machine."""
        waiting, self._waiting = self._waiting.values(), {}
        with self._stages.ledger.transaction():
            kept = [(each, self._kept(each)) for each in waiting]
        events = [self._answered(each, news) for each, news in kept]
        return [event for event in events if event is not None]

    def _wait(self, checked: _Checked) -> None:
        self._waiting[checked.device] = checked

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

    def _checked(self, device: str, row: TaskRow, result: Result, payload: bytes, came: float) -> _Checked:
        try:
            decoded = self._stages.check(row.task, result, payload)
        except (RefusedError, BlobError) as exc:
            return _refused(device, row, result, str(exc), came)
        return _Checked(device, row.task, result, payload, came, decoded)

    def _kept(self, checked: _Checked) -> bool:
        """Write down that a result counts or is refused; False where that is known already."""
        device, task, result = checked.device, checked.task, checked.result
        if checked.problem:
            return self._stages.ledger.keep_failure(task.number, device, checked.problem)
        self._stages.accept(task, device, result, checked.payload, checked.came, checked.decoded)
        return True

    def _answered(self, checked: _Checked, news: bool) -> Reported | None:
        device, result, problem = checked.device, checked.result, checked.problem
        self._tell(device, Receipt(task=result.task, accepted=not problem, reason=problem))
        if not news:
            return None
        if problem:
            self._failed(device, problem)
            return Reported(device, problem[:200])
        self._accepted(device, result)
        return Reported(device)


def _refused(device: str, row: TaskRow, result: Result, problem: str, came: float) -> _Checked:
    return _Checked(device, row.task, result, b"", came, problem=problem[:500] or "refused")
