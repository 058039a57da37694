"""One decompression, any number of targets: pieces become aligned chunks, each target writes in a thread.

A target that fails drops out and holds up nobody. The first `HELD_BACK` bytes are not written here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from provisioning.image.checksum import checksum
from provisioning.image.target import CHUNK, HELD_BACK, Target, buffer

BUFFERS = 8  # chunks in memory, all targets together
HOLE = 1 << 20  # stretches of zeros of this size are not written where the target reads as zeros anyway
ZEROS = bytes(HOLE)
GLANCE = 4096  # bytes that tell most data from zeros

OnBytes = Callable[[int], None]  # called with the number of bytes done so far


@dataclass(frozen=True, slots=True)
class Content:
    """What a target must hold: its size, the checksum of each chunk, and the first bytes themselves."""

    size: int
    checksums: tuple[bytes, ...]
    head: bytes


@dataclass(slots=True)
class _Chunk:
    """Part of the image in a buffer that goes back to its pool when everyone is done with it."""

    position: int
    size: int
    memory: memoryview
    pool: queue.SimpleQueue[memoryview]
    holders: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self) -> None:
        with self.lock:
            self.holders += 1

    def release(self) -> None:
        with self.lock:
            self.holders -= 1
            free = self.holders == 0
        if free:
            self.pool.put(self.memory)


class _Writer(threading.Thread):
    """Writes chunks to one target, in order; after an error it only lets go of them."""

    def __init__(self, target: Target) -> None:
        super().__init__(name=f"write {target.path}", daemon=True)
        self.target = target
        self.chunks: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self.error: Exception | None = None
        self.done = 0

    def run(self) -> None:
        while (chunk := self.chunks.get()) is not None:
            try:
                self._attempt(partial(self._write, chunk))
            finally:
                chunk.release()
        self._attempt(self._finish)

    def _attempt(self, step: Callable[[], None]) -> None:
        if self.error is None:
            try:
                step()
            except Exception as exc:  # noqa: BLE001 - a thread that ends holds chunks, and everybody waits
                self.error = exc

    def _finish(self) -> None:
        self.target.set_size(self.done)
        self.target.sync()

    def _write(self, chunk: _Chunk) -> None:
        first = max(HELD_BACK - chunk.position, 0)
        padded = self.target.padded(chunk.size)
        for start, stop in _runs(chunk.memory[:padded], sparse=self.target.fresh):
            if stop > first:
                begin = max(start, first)
                self.target.write(chunk.memory[begin:stop], chunk.position + begin)
        self.done = chunk.position + chunk.size


def write_body(
    pieces: Iterable[bytes], targets: Sequence[Target], on_bytes: OnBytes
) -> tuple[Content, dict[Target, Exception]]:
    """Write an image, its first bytes apart, to all targets, and sync them.

    Returns:
        What a target must hold now, and the targets that failed with their reasons.

    Raises:
        Whatever `pieces` raises; the targets stop then.
    """
    writers = [_Writer(target) for target in targets]
    for writer in writers:
        writer.start()
    try:
        content = _distribute(pieces, writers, on_bytes)
    except BaseException:
        for writer in writers:
            writer.target.stopped = True
        raise
    finally:
        for writer in writers:
            writer.chunks.put(None)
        for writer in writers:
            writer.join()
    return content, {writer.target: writer.error for writer in writers if writer.error is not None}


def _distribute(pieces: Iterable[bytes], writers: Sequence[_Writer], on_bytes: OnBytes) -> Content:
    checksums: list[bytes] = []
    head, size = b"", 0
    for chunk in _chunks(pieces):
        if not chunk.position:
            head = bytes(chunk.memory[: min(HELD_BACK, chunk.size)])
        size = chunk.position + chunk.size
        for writer in writers:
            chunk.hold()
            writer.chunks.put(chunk)
        checksums.append(checksum(chunk.memory[: chunk.size]))
        chunk.release()
        if all(writer.error is not None for writer in writers):
            break  # nobody is left to write for
        on_bytes(min((writer.done for writer in writers if writer.error is None), default=0))
    return Content(size, tuple(checksums), head)


def _chunks(pieces: Iterable[bytes]) -> Iterator[_Chunk]:
    """Pieces of any size as chunks of `CHUNK` bytes, padded with zeros in their buffer."""
    pool: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        pool.put(memoryview(buffer()))
    position = filled = 0
    memory = pool.get()
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            count = min(len(rest), CHUNK - filled)
            memory[filled : filled + count] = rest[:count]
            rest, filled = rest[count:], filled + count
            if filled == CHUNK:
                yield _Chunk(position, CHUNK, memory, pool)
                position, filled, memory = position + CHUNK, 0, pool.get()
    if filled:
        memory[filled:] = bytes(CHUNK - filled)
        yield _Chunk(position, filled, memory, pool)


def _runs(memory: memoryview, *, sparse: bool) -> Iterator[tuple[int, int]]:
    """Start and end of what is to be written: everything, or all but long stretches of zeros."""
    if not sparse:
        yield 0, len(memory)
        return
    start = None
    for place in range(0, len(memory), HOLE):
        part = memory[place : place + HOLE]
        used = bytes(part[:GLANCE]) != ZEROS[: len(part[:GLANCE])] or bytes(part) != ZEROS[: len(part)]
        if used and start is None:
            start = place
        elif not used and start is not None:
            yield start, place
            start = None
    if start is not None:
        yield start, len(memory)
