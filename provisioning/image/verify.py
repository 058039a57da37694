"""Reading back from the medium: through the page cache a bad card returns what was meant, too."""

from __future__ import annotations

from mmap import mmap

from provisioning.image.checksum import checksum
from provisioning.image.errors import VerifyError
from provisioning.image.target import CHUNK, HELD_BACK, Target, buffer
from provisioning.image.writer import Content, OnBytes


def check_body(target: Target, content: Content, on_bytes: OnBytes) -> None:
    """Compare a target with what was written; the first bytes, held back, must still read as zeros.

    Raises:
        VerifyError: naming the place of the first difference, or that the cache cannot be bypassed.
    """
    target.sync()
    with buffer() as memory:
        for index, expected in enumerate(content.checksums):
            start = index * CHUNK
            end = min(start + CHUNK, content.size)
            _fill(target, memory, start, end - start)
            if index == 0:
                _put_head(target, memory, content.head)
            with memoryview(memory) as view, view[: end - start] as read:
                if checksum(read) != expected:
                    raise VerifyError(
                        f"{target.path}: what is read back between bytes {start} and {end} is not what was "
                        "written: a bad card, reader or cable"
                    )
            on_bytes(end)


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
    with memoryview(memory) as view, view[: target.padded(size)] as into:
        count = target.read(into, position)
    if count < size:
        raise VerifyError(f"{target.path} ends at {position + count} bytes")


def _put_head(target: Target, memory: mmap, head: bytes) -> None:
    if memory[: len(head)].strip(b"\0"):
        raise VerifyError(f"{target.path}: something else wrote to the target meanwhile")
    memory[: len(head)] = head
