"""A file read once from front to back, and the SHA-256 of exactly the bytes that were handed out."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

WAITING = 8  # pieces read and not yet hashed: bounds the memory
PIECE = 4 << 20


class HashedFile:
    """Sequential reading; the hashing runs beside it in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self._file = path.open("rb", buffering=0)
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "archive-hash")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hasher.shutdown(cancel_futures=True)
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the file."""
        parts: list[bytes] = []
        missing = size
        while missing and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if data:
            self._hash(data)
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Read and hash up to `position`, which must not lie behind."""
        while self.position < position and self.read(min(PIECE, position - self.position)):
            pass

    def sha256(self) -> str:
        """Of the whole file: the rest is read too."""
        while self.read(PIECE):
            pass
        while self._pending:
            self._pending.popleft().result()
        return self._digest.hexdigest()

    def _hash(self, data: bytes) -> None:
        self._pending.append(self._hasher.submit(self._digest.update, data))
        if len(self._pending) > WAITING:
            self._pending.popleft().result()
