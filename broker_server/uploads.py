"""Chunked uploads: a few devices at a time are told which chunks to send.

QoS 1 has no back-pressure: 200 devices sending 5 MiB at once took 1.5 GB of the broker's memory where
eight at a time took 63 MB (measured, docs/wire.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from broker_server.checks import RefusedError
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.rounds import Result

SLOTS = 8  # uploads at a time
SLOT_TIMEOUT_S = 300.0  # without a chunk, ten times what one takes at 4.4 KB/s: someone else's turn
CHUNKS_A_GRANT = 4


@dataclass(slots=True)
class _Upload:
    result: Result
    ref: BlobRef
    touched: float
    asked: set[int] = field(default_factory=set)


class Uploads:
    """Who uploads now and who waits."""

    def __init__(self, store: BlobStore, grant: Callable[[str, Grant], None]) -> None:
        self._store = store
        self._grant = grant
        self._active: dict[str, _Upload] = {}
        self._waiting: dict[str, _Upload] = {}  # in order of arrival

    def offer(self, device: str, result: Result, ref: BlobRef, now: float) -> bytes | None:
        """A device has a payload: its bytes if they are here, else it uploads now or waits its turn."""
        if not self._store.missing(ref):
            return self._taken(device, ref)
        current = self._active.get(device)
        if current is not None and current.ref == ref:
            self._ask(device, current)  # it offers again: the grant or its chunks were lost
            return None
        self._active.pop(device, None)
        self._waiting[device] = _Upload(result, ref, now)
        self._fill_slots(now)
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
            return upload.result, self._taken(device, upload.ref)
        if not upload.asked:
            self._ask(device, upload)
        return None

    def tick(self, now: float) -> None:
        """Take slots from the silent and give them to those who wait."""
        for device in [name for name, up in self._active.items() if now - up.touched > SLOT_TIMEOUT_S]:
            del self._active[device]
        self._fill_slots(now)

    def clear(self) -> None:
        """A stage is over: nothing that is under way is wanted any more."""
        self._active.clear()
        self._waiting.clear()
        self._store.keep_only([])

    def tidy(self) -> None:
        """A stage is over that others still work for: what is under way stays, what was taken goes."""
        uploads = (*self._active.values(), *self._waiting.values())
        self._store.keep_only(upload.ref.digest for upload in uploads)

    def _taken(self, device: str, ref: BlobRef) -> bytes:
        data = self._store.read(ref)
        self._active.pop(device, None)
        self._waiting.pop(device, None)
        return data

    def _fill_slots(self, now: float) -> None:
        while self._waiting and len(self._active) < SLOTS:
            device = next(iter(self._waiting))
            upload = self._waiting.pop(device)
            upload.touched = now
            self._active[device] = upload
            self._ask(device, upload)

    def _ask(self, device: str, upload: _Upload) -> None:
        missing = self._store.missing(upload.ref)[:CHUNKS_A_GRANT]
        upload.asked = set(missing)
        if missing:
            self._grant(device, Grant(task=upload.result.task, blob=upload.ref.digest, chunks=tuple(missing)))
