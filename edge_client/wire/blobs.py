"""Manifests: a large payload is named by its SHA-256 and travels in chunks named by theirs.

A blob of one chunk needs no list: its only chunk has the blob's own digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from compression.records import Between, Length, Matches, Record, RecordError

CHUNK_BYTES = 128 * 1024  # 30 s at 4.4 KB/s, half a keepalive: docs/wire.md says how this was measured
MAX_BLOB_BYTES = 128 << 20

Digest = Annotated[str, Matches(r"[0-9a-f]{64}")]


@dataclass(frozen=True, slots=True)
class BlobRef(Record):
    """What a receiver needs to fetch and check a blob, from a source it trusts."""

    digest: Digest
    size: Annotated[int, Between(1, MAX_BLOB_BYTES)]
    chunks: Annotated[tuple[Digest, ...], Length(0, MAX_BLOB_BYTES // CHUNK_BYTES)] = ()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        wanted = 0 if self.size <= CHUNK_BYTES else self.count
        if len(self.chunks) != wanted:
            raise RecordError(f"BlobRef: {self.size} bytes need {wanted} digests, got {len(self.chunks)}")

    @classmethod
    def of(cls, data: bytes) -> BlobRef:
        """The manifest of some bytes."""
        digests = tuple(sha256(part) for part in split(data)) if len(data) > CHUNK_BYTES else ()
        return cls(digest=sha256(data), size=len(data), chunks=digests)

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.size // CHUNK_BYTES)

    def chunk_digest(self, index: int) -> str:
        """Digest of one chunk."""
        return self.chunks[index] if self.chunks else self.digest

    def chunk_size(self, index: int) -> int:
        """Length of one chunk in bytes."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


def split(data: bytes) -> list[bytes]:
    """The chunks of some bytes, in order."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


def sha256(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
