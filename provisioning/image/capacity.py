"""Cards that claim more than they hold: marks all over the card, written first and read back after.

A counterfeit card either forgets what lies beyond its true size or lets it run over the beginning, so
that the last mark written to a place wins.
"""

from __future__ import annotations

import hashlib
import secrets

from provisioning.image.errors import VerifyError
from provisioning.image.target import CHUNK, Target, buffer

MARK = 1 << 20
GIB = 1 << 30


def check_capacity(target: Target) -> None:
    """Write and read marks at 1, 2, 4, ... GiB and at the end of a disk. What lay there is lost.

    Raises:
        VerifyError: the card is smaller than it says.
    """
    if target.capacity is None or target.capacity < 2 * CHUNK:
        return
    nonce = secrets.token_bytes(16)
    places = mark_places(target.capacity, target.block)
    with buffer(MARK) as memory:
        for place in places:
            memory[:] = _pattern(nonce, place)
            target.write(memoryview(memory), place)
        target.sync()
        for place in places:
            target.read(memoryview(memory), place)
            if memory[:] != _pattern(nonce, place):
                raise VerifyError(
                    f"{target.path} says that it has {target.capacity / 1e9:.1f} GB, but what is written "
                    f"at {place / 1e9:.1f} GB does not read back: a counterfeit or dying card"
                )
        memory[:] = bytes(MARK)
        target.write(memoryview(memory), places[-1])  # where a GPT of the past has its copy


def mark_places(capacity: int, block: int) -> list[int]:
    """Where marks go, in rising order; the last one ends where the disk does."""
    last = (capacity - MARK) // block * block
    doublings = [GIB << power for power in range(10) if GIB << power < last]
    return [CHUNK, *doublings, last]


def _pattern(nonce: bytes, place: int) -> bytes:
    return hashlib.shake_128(nonce + place.to_bytes(8, "little")).digest(MARK)
