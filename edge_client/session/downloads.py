"""What a device still has to fetch, and when to ask for it again.

No I/O but the blob store's: the caller passes the time and sends what `due` returns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.messages import BlobRequest

PATIENCE_S = 0.3  # chunks are broadcast right behind the manifest: wait for them before asking
RETRY_S = 5.0  # without any progress; doubles up to LAST_RETRY_S
LAST_RETRY_S = 60.0
WINDOW = 4  # chunks asked for at a time: 512 KiB on their way to one device


@dataclass(slots=True)
class _Transfer:
    ref: BlobRef
    ask_at: float
    retry_s: float = RETRY_S
    outstanding: int = 0


class Downloads:
    """The blobs that are wanted and not yet complete."""

    def __init__(self, store: BlobStore, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._wanted: dict[str, _Transfer] = {}

    def want(self, ref: BlobRef, now: float) -> bool:
        """Ask for a blob; True when it is already here."""
        if self._store.has(ref):
            return True
        if ref.digest not in self._wanted:
            self._wanted[ref.digest] = _Transfer(ref, now + PATIENCE_S)
        return False

    def forget_all(self) -> None:
        """Nothing is wanted any more."""
        self._wanted.clear()

    def reconnected(self, now: float) -> None:
        """Ask again soon for everything: what was under way may be lost."""
        for transfer in self._wanted.values():
            transfer.ask_at = now + PATIENCE_S * (1 + self._rng.random())
            transfer.outstanding = 0

    def on_chunk(self, digest: str, index: int, data: bytes, now: float) -> bool:
        """Keep a chunk that is wanted; True when it completed its blob.

        Raises:
            BlobError: the bytes are not what the manifest says.
        """
        transfer = self._wanted.get(digest)
        if transfer is None:
            return False
        complete = self._store.add_chunk(transfer.ref, index, data)
        transfer.retry_s = RETRY_S
        transfer.outstanding = max(0, transfer.outstanding - 1)
        transfer.ask_at = now + (PATIENCE_S if transfer.outstanding == 0 else RETRY_S)
        if complete:
            del self._wanted[digest]
        return complete

    def due(self, now: float) -> list[BlobRequest]:
        """The requests to send now."""
        requests = []
        for transfer in self._wanted.values():
            if transfer.ask_at > now:
                continue
            missing = tuple(self._store.missing(transfer.ref)[:WINDOW])
            if not missing:  # damaged on disk since: start over
                raise BlobError(f"blob {transfer.ref.digest[:12]} is complete but still wanted")
            requests.append(BlobRequest(blob=transfer.ref.digest, chunks=missing))
            transfer.outstanding = len(missing)
            transfer.ask_at = now + transfer.retry_s * self._rng.uniform(0.75, 1.25)
            transfer.retry_s = min(LAST_RETRY_S, 2 * transfer.retry_s)
        return requests

    def next_due(self) -> float | None:
        """When `due` will next have something to say; None when nothing is wanted."""
        return min((transfer.ask_at for transfer in self._wanted.values()), default=None)
