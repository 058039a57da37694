"""Blobs on disk, complete or on the way: what both sides keep of a chunked transfer.

A directory holds finished blobs under their digest, and unfinished ones as a folder of checked
chunks, so that an interrupted transfer goes on where it stopped. Only chunks of blobs that were
announced by a trusted manifest are kept.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from compression.errors import BrambleError
from edge_client.files import write_atomically
from edge_client.wire.blobs import BlobRef, sha256

HELD = 4  # blobs in memory: the steps of the task at work and of the next


class BlobError(BrambleError, ValueError):
    """A chunk does not belong to the blob it claims, or a blob is not here whole: it can be fetched again."""


class BlobStore:
    """Content-addressed files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, bytes] = {}  # in memory alone
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a finished blob lies."""
        return self._directory / digest

    def has(self, ref: BlobRef) -> bool:
        """Whether the blob is complete."""
        return ref.digest in self._held or self.path(ref.digest).exists()

    def read(self, ref: BlobRef) -> bytes:
        """The bytes of a finished blob; raise `BlobError` if it is not here or the disk gives others back."""
        if (held := self._held.get(ref.digest)) is not None:
            return held
        try:
            data = self.path(ref.digest).read_bytes()
        except FileNotFoundError as exc:
            raise BlobError(f"blob {ref.digest[:12]} is not here") from exc
        if sha256(data) != ref.digest:
            self.path(ref.digest).unlink()
            raise BlobError(f"blob {ref.digest[:12]} was damaged on disk and is removed")
        return data

    def put(self, data: bytes) -> BlobRef:
        """Keep some bytes; return their manifest."""
        ref = BlobRef.of(data)
        if not self.has(ref):
            write_atomically(self.path(ref.digest), data)
        return ref

    def hold(self, ref: BlobRef, data: bytes) -> None:
        """Keep a small blob in memory until it is swept: it is used at once, and can be fetched again.

        The newest few alone: a device that is too slow for its tasks never comes to sweep.
        """
        if sha256(data) == ref.digest:
            self._held[ref.digest] = data
            for oldest in list(self._held)[:-HELD]:
                del self._held[oldest]

    def missing(self, ref: BlobRef) -> list[int]:
        """Indices of the chunks that are not here yet; empty for a finished blob.

        Finishes a blob whose chunks are all here: the power may go between the last one and the join.
        """
        if self.has(ref):
            return []
        folder = self._parts(ref)
        absent = [index for index in range(ref.count) if not (folder / str(index)).exists()]
        if not absent:
            with contextlib.suppress(BlobError):
                self._join(ref)
                return []
            absent = list(range(ref.count))  # damaged on disk and thrown away
        return absent

    def add_chunk(self, ref: BlobRef, index: int, data: bytes) -> bool:
        """Keep one chunk; True when it completed the blob.

        Raises:
            BlobError: the index or the bytes are not this blob's; nothing is kept.
        """
        if index >= ref.count or sha256(data) != ref.chunk_digest(index):
            raise BlobError(f"chunk {index} is not part of blob {ref.digest[:12]}")
        if self.has(ref):
            return False
        if ref.count == 1:
            write_atomically(self.path(ref.digest), data)
            return True
        write_atomically(self._parts(ref) / str(index), data)
        if all((self._parts(ref) / str(part)).exists() for part in range(ref.count)):
            self._join(ref)
            return True
        return False

    def remove(self, digest: str) -> None:
        """Remove a blob, finished or not, if it is here."""
        self._held.pop(digest, None)
        shutil.rmtree(self._directory / f"{digest}.parts", ignore_errors=True)
        self.path(digest).unlink(missing_ok=True)

    def keep_only(self, digests: Iterable[str]) -> None:
        """Remove every blob, finished or not, that is not named."""
        wanted = set(digests)
        self._held = {digest: data for digest, data in self._held.items() if digest in wanted}
        for path in self._directory.iterdir():
            if path.name.removesuffix(".parts") in wanted:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def _parts(self, ref: BlobRef) -> Path:
        return self._directory / f"{ref.digest}.parts"

    def _join(self, ref: BlobRef) -> None:
        folder = self._parts(ref)
        data = b"".join((folder / str(index)).read_bytes() for index in range(ref.count))
        whole = sha256(data) == ref.digest
        if whole:
            write_atomically(self.path(ref.digest), data)
        shutil.rmtree(folder)
        if not whole:
            raise BlobError(f"the chunks of blob {ref.digest[:12]} are right but not their sum: bad manifest")
