"""What a device still has to fetch, and when to ask for it again.

No I/O but the blob store's: the caller passes the time and sends what `due` returns.

A broker hands everything to a device in order and forgets little, so what was asked for and has not
come is most likely still on its way: asking again makes a slow link slower. Hence three rules. While
chunks are outstanding, a time-out runs from the last chunk that came, of whatever blob, and is as long as
the outstanding ones need at the pace measured so far; before anything is measured, at the pace of the slowest
link that works. Chunks that come unasked are a broadcast under way, and the next one is waited for.
And as long as it is not known whether the link carries anything, one chunk is asked for and not a window:
the last one, which a broadcast would bring last.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef
from edge_client.wire.chunks import BlobRequest

PATIENCE_S = 0.3  # chunks are broadcast right behind the manifest: wait for them before asking
SLOWEST_CHUNK_S = 30.0  # a whole chunk at 4.4 KB/s, the slowest link that works: docs/wire.md
RETRY_S = 5.0  # shortest time-out: a busy server on a fast link; doubles while nothing comes, up to ...
LAST_RETRY_S = 60.0  # ... this, or to what the outstanding chunks need
WINDOW = 4  # chunks asked for at a time: 512 KiB on their way to one device


class _Pace:
    """Seconds a byte takes: up at once, down by halves, so that a burst out of a buffer misleads little."""

    def __init__(self) -> None:
        self.seconds_a_byte: float | None = None

    def observe(self, seconds: float, size: int) -> None:
        """A chunk of this size came so long after the one before it, or after it was asked for."""
        found = min(max(0.0, seconds) / max(size, 1), SLOWEST_CHUNK_S / CHUNK_BYTES)
        held = self.seconds_a_byte
        self.seconds_a_byte = found if held is None or found > held else (held + found) / 2


@dataclass(slots=True)
class _Transfer:
    ref: BlobRef
    since: float  # wanted, asked for, or last chunk of it
    wait_s: float  # from then, or from the last chunk of any blob, until it is asked for
    probing: bool  # nothing has come since it was wanted, asked for or reconnected: ask for one chunk only
    outstanding: set[int] = field(default_factory=set)
    fruitless: int = 0  # requests since the last chunk


class Downloads:
    """The blobs that are wanted and not yet complete."""

    def __init__(self, store: BlobStore, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._wanted: dict[str, _Transfer] = {}
        self._pace = _Pace()
        self._heard_at = float("-inf")  # the last chunk of any blob

    def want(self, ref: BlobRef, now: float) -> bool:
        """Ask for a blob; True when it is already here."""
        if ref.digest in self._wanted:
            return False
        if not self._store.missing(ref):
            return True
        probing = self._pace.seconds_a_byte is None
        self._wanted[ref.digest] = _Transfer(ref, now, self._next_chunk_s(ref), probing)
        return False

    def want_all(self, refs: Iterable[BlobRef], now: float) -> bool:
        """Ask for each of some blobs; True when all of them are here."""
        return not [ref for ref in refs if not self.want(ref, now)]

    def forget(self, ref: BlobRef) -> None:
        """It is not wanted any more."""
        self._wanted.pop(ref.digest, None)

    def forget_all(self) -> None:
        """Nothing is wanted any more."""
        self._wanted.clear()

    def reconnected(self, now: float) -> None:
        """Ask again soon for everything: what was under way may be lost, or waits at the broker."""
        for transfer in self._wanted.values():
            transfer.since, transfer.probing = now, True
            transfer.wait_s = self._next_chunk_s(transfer.ref) * (1 + self._rng.random())
            transfer.outstanding.clear()

    def on_chunk(self, digest: str, index: int, data: bytes, now: float) -> bool:
        """Keep a chunk that is wanted; True when it completed its blob.

        Args:
            digest: of the blob.
            index: of the chunk.
            data: the chunk.
            now: when it came in, not when somebody got round to it.

        Raises:
            BlobError: the bytes are not what the manifest says.
        """
        heard_at, self._heard_at = self._heard_at, max(now, self._heard_at)
        transfer = self._wanted.get(digest)
        if transfer is None:
            return False
        complete = self._store.add_chunk(transfer.ref, index, data)
        self._pace.observe(now - max(heard_at, transfer.since), len(data))
        if complete:
            del self._wanted[digest]
            return True
        asked_for = index in transfer.outstanding
        transfer.outstanding.discard(index)
        transfer.since, transfer.probing, transfer.fruitless = now, False, 0
        if transfer.outstanding:
            transfer.wait_s = self._time_out_s(transfer)
        else:  # the window is through; or a broadcast is under way
            transfer.wait_s = 0.0 if asked_for else self._next_chunk_s(transfer.ref)
        return False

    def due(self, now: float) -> list[BlobRequest]:
        """The requests to send now."""
        requests = []
        for transfer in list(self._wanted.values()):
            if self._due_at(transfer) > now:
                continue
            missing = self._store.missing(transfer.ref)
            if not missing:  # all chunks were here and only had to be joined
                del self._wanted[transfer.ref.digest]
                continue
            asked = missing[-1:] if transfer.probing else missing[:WINDOW]
            requests.append(BlobRequest(blob=transfer.ref.digest, chunks=tuple(asked)))
            transfer.outstanding = set(asked)
            transfer.since, transfer.probing = now, True
            transfer.wait_s = self._time_out_s(transfer)
            transfer.fruitless += 1
        return requests

    def next_due(self) -> float | None:
        """When `due` will next have something to say; None when nothing is wanted."""
        return min((self._due_at(transfer) for transfer in self._wanted.values()), default=None)

    def _due_at(self, transfer: _Transfer) -> float:
        """Chunks of other blobs are signs of life, too: what is asked for waits behind them."""
        return max(transfer.since, self._heard_at) + transfer.wait_s

    def _next_chunk_s(self, ref: BlobRef) -> float:
        """How long to wait for a chunk that may be on its way unasked."""
        return PATIENCE_S + 2 * (self._pace.seconds_a_byte or 0.0) * ref.chunk_size(0)

    def _time_out_s(self, transfer: _Transfer) -> float:
        """How long silence must last before what is outstanding counts as lost.

        Long enough for it and for one chunk of something else before it.
        """
        pace = self._pace.seconds_a_byte
        if pace is None:
            pace = SLOWEST_CHUNK_S / CHUNK_BYTES
        size = CHUNK_BYTES + sum(transfer.ref.chunk_size(index) for index in transfer.outstanding)
        least = max(RETRY_S, pace * size)
        doubled = least * 2.0 ** min(transfer.fruitless, 10)
        return min(max(LAST_RETRY_S, least), doubled) * self._rng.uniform(1.0, 1.5)
