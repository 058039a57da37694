"""Results on their way in: who may send what, in how many pieces, and whether it is any good.

Small payloads come inside their result. Larger ones are uploaded in chunks, a few devices at a time:
QoS 1 has no back-pressure, and 200 devices sending 5 MiB at once took 1.5 GB of the broker's memory
where eight at a time took 63 MB (measured, docs/wire.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compression.records import RecordError, loads
from compression.spec import TensorSpec
from compression.updates import CodecError, decode_update
from edge_client.data import ColumnStatistics
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.messages import Chunk, Grant, Result, Task

SLOTS = 8  # uploads at a time
SLOT_TIMEOUT_S = 60.0  # without a chunk: the slot goes to someone else
CHUNKS_A_GRANT = 4
MAX_STATISTICS_BYTES = 8 << 20


class RefusedError(ValueError):
    """A result cannot be accepted; the message goes back to the device."""


def max_payload_bytes(task: Task, parameters: int) -> int:
    """Most that a result of this task can need: no codec makes an update larger than float32 and indices."""
    return {"statistics": MAX_STATISTICS_BYTES, "train": 8 * parameters + 65_536, "evaluate": 0, "idle": 0}[
        task.kind
    ]


def check_result(task: Task, result: Result, payload: bytes, tensors: Sequence[TensorSpec]) -> None:
    """Raise `RefusedError` unless a result is what its task asked for."""
    try:
        if task.kind == "statistics":
            statistics = loads(ColumnStatistics, payload, max_bytes=MAX_STATISTICS_BYTES)
            if tuple(column.name for column in statistics.columns) != task.columns:
                raise RefusedError("statistics of other columns than were asked for")
        elif task.kind == "train":
            if result.training is None or task.bundle is None:
                raise RefusedError("an update without a training report")
            update = decode_update(payload, tensors, model_digest=task.bundle.digest)
            if update.round_number != task.round:
                raise RefusedError(f"an update of round {update.round_number}, this is round {task.round}")
    except (CodecError, RecordError) as exc:
        raise RefusedError(str(exc)) from exc


@dataclass(slots=True)
class _Upload:
    result: Result
    ref: BlobRef
    touched: float
    asked: set[int]


class Uploads:
    """Chunked uploads, at most `SLOTS` at a time."""

    def __init__(self, store: BlobStore, grant: Callable[[str, Grant], None]) -> None:
        self._store = store
        self._grant = grant
        self._active: dict[str, _Upload] = {}

    def offer(self, device: str, result: Result, ref: BlobRef, now: float) -> bytes | None:
        """A device has a payload; its bytes if they are here, else a slot is granted if one is free."""
        if self._store.has(ref):
            self._active.pop(device, None)
            return self._store.read(ref)
        self._active = {
            name: upload for name, upload in self._active.items() if now - upload.touched < SLOT_TIMEOUT_S
        }
        if device in self._active or len(self._active) < SLOTS:
            self._active[device] = _Upload(result, ref, now, set())
            self._ask(device)
        return None

    def add_chunk(self, device: str, chunk: Chunk, data: bytes, now: float) -> tuple[Result, bytes] | None:
        """Keep a granted chunk; the result and its payload when that was the last one.

        Raises:
            RefusedError: the chunk was not granted or is not what the manifest says.
        """
        upload = self._active.get(device)
        if upload is None or upload.ref.digest != chunk.blob or chunk.index not in upload.asked:
            raise RefusedError(f"chunk {chunk.index} was not asked for")
        try:
            complete = self._store.add_chunk(upload.ref, chunk.index, data)
        except BlobError as exc:
            raise RefusedError(str(exc)) from exc
        upload.touched = now
        upload.asked.discard(chunk.index)
        if complete:
            del self._active[device]
            return upload.result, self._store.read(upload.ref)
        if not upload.asked:
            self._ask(device)
        return None

    def _ask(self, device: str) -> None:
        upload = self._active[device]
        missing = self._store.missing(upload.ref)[:CHUNKS_A_GRANT]
        upload.asked = set(missing)
        self._grant(device, Grant(task=upload.result.task, blob=upload.ref.digest, chunks=tuple(missing)))
