"""The way in for results: each is checked, made durable, acknowledged, and told to the round machine.

Whatever a device sends, it gets an answer, and the same answer each time it asks again: the ledger
knows. Nothing a device sends can stop the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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

    def on_result(self, device: str, result: Result, body: bytes) -> Reported | None:
        """A result, with its payload or the offer of one; what the round machine is to be told."""
        row = self._open_task(device, result)
        if row is None:
            return None
        if result.status == "failed":
            return self._refuse(device, result, result.reason or "no reason given")
        if result.payload is None or body:
            return self._accept(device, result, body, row)
        limit = max_payload_bytes(row.task, self._stages.parameters)
        if result.payload.size > limit:
            return self._refuse(device, result, f"a payload of {result.payload.size} bytes, at most {limit}")
        payload = self._uploads.offer(device, result, result.payload, time.monotonic())
        return None if payload is None else self._accept(device, result, payload, row)

    def on_chunk(self, device: str, chunk: Chunk, data: bytes) -> Reported | None:
        """A chunk of an upload; raise `RefusedError` if it was not granted."""
        complete = self._uploads.add_chunk(device, chunk, data, time.monotonic())
        if complete is None:
            return None
        result, payload = complete
        row = self._open_task(device, result)
        return None if row is None else self._accept(device, result, payload, row)

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

    def _accept(self, device: str, result: Result, payload: bytes, row: TaskRow) -> Reported | None:
        try:
            decoded = self._stages.check(row.task, result, payload)
        except (RefusedError, BlobError) as exc:
            return self._refuse(device, result, str(exc))
        self._stages.accept(row.task, device, result, payload, clock.now(), decoded)
        self._tell(device, Receipt(task=result.task, accepted=True))
        self._accepted(device, result)
        return Reported(device)

    def _refuse(self, device: str, result: Result, reason: str) -> Reported | None:
        self._tell(device, Receipt(task=result.task, accepted=False, reason=reason[:500]))
        if not self._stages.ledger.keep_failure(result.task, device, reason[:500]):
            return None
        self._failed(device, reason)
        return Reported(device, reason[:200])
