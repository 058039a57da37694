"""Reading back from the medium: through the page cache a bad card returns what was meant, too."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap

from provisioning.image.errors import VerifyError
from provisioning.image.target import CHUNK, HELD_BACK, Target, buffer
from provisioning.image.writer import Content, OnBytes

AHEAD = 2  # chunks that are hashed while the next one is read


def check_body(target: Target, content: Content, on_bytes: OnBytes) -> None:
    """Compare a target with what was written; the first bytes, held back, must still read as zeros.

    Raises:
        VerifyError: naming the place of the first difference, or that the cache cannot be bypassed.
    """
    target.sync()
    waiting: deque[tuple[int, mmap, Future[bytes]]] = deque()
    free = [buffer() for _ in range(AHEAD + 1)]
    with ThreadPoolExecutor(AHEAD, "read-back") as pool:
        for index in range(len(content.digests)):
            position = index * CHUNK
            size = min(CHUNK, content.size - position)
            memory = free.pop()
            _fill(target, memory, position, size)
            if index == 0:
                _put_head(target, memory, content.head)
            waiting.append((index, memory, pool.submit(_digest, memory, size)))
            if not free:
                free.append(_compare(target, content, *waiting.popleft()))
            on_bytes(position + size)
        while waiting:
            _compare(target, content, *waiting.popleft())


def check_head(target: Target, content: Content) -> None:
    """The first bytes, once they are written.

    Raises:
        VerifyError: they differ.
    """
    with buffer(HELD_BACK) as memory:
        size = len(content.head)
        _fill(target, memory, 0, size)
        if memory[:size] != content.head:
            raise VerifyError(f"{target.path}: the first block reads back differently: a bad card")


def _fill(target: Target, memory: mmap, position: int, size: int) -> None:
    count = target.read(memoryview(memory)[: target.padded(size)], position)
    if count < size:
        raise VerifyError(f"{target.path} ends at {position + count} bytes")


def _put_head(target: Target, memory: mmap, head: bytes) -> None:
    if memory[: len(head)].strip(b"\0"):
        raise VerifyError(f"{target.path}: something else wrote to the target meanwhile")
    memory[: len(head)] = head


def _digest(memory: mmap, size: int) -> bytes:
    return hashlib.sha256(memoryview(memory)[:size]).digest()


def _compare(target: Target, content: Content, index: int, memory: mmap, digest: Future[bytes]) -> mmap:
    if digest.result() != content.digests[index]:
        start = index * CHUNK
        end = min(start + CHUNK, content.size)
        raise VerifyError(
            f"{target.path}: what is read back between bytes {start} and {end} is not what was written: "
            "a bad card, reader or cable"
        )
    return memory
