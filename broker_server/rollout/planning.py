"""Who gets a version when: the canaries, then growing shares of the fleet, then everyone."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence

from compression.errors import BrambleError
from edge_client.wire.topics import NAME_PATTERN


class RolloutError(BrambleError, RuntimeError):
    """A rollout cannot be done as asked; the message says what to change."""


def parse_canary(text: str, devices: Collection[str]) -> int | tuple[str, ...]:
    """``5%``, ``3`` or ``pi-1,pi-7`` as a number of devices, at least one, or as names.

    Raises:
        RolloutError: it is none of these, or names a device that the fleet has not.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip()):
        return max(1, math.ceil(float(match[1]) / 100 * len(devices) - 1e-9))
    if text.strip().isdecimal() and text.strip() not in devices:
        return max(1, int(text))
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(re.fullmatch(NAME_PATTERN, name) for name in names):
        raise RolloutError(f"canary {text!r}: expected a share as 5%, a number, or devices' names")
    if unknown := [name for name in names if name not in devices]:
        raise RolloutError(f"canary {unknown[0]!r} is not a device that may get the model")
    return names


def plan_waves(
    version: int,
    devices: Collection[str],
    canary: str,
    stages: Sequence[float],
    *,
    online: Collection[str] = (),
) -> tuple[tuple[str, ...], ...]:
    """The waves, no device in two of them.

    Canaries that are not named are drawn by a hash of version and name, from those online first: other
    versions try other devices, and a restarted server draws the same.

    Args:
        version: that is rolled out.
        devices: that may get it.
        canary: as `parse_canary` takes it.
        stages: shares in percent that have it after each further wave; everyone has it after the last.
        online: devices that are there now.

    Raises:
        RolloutError: `parse_canary`'s, or there are no devices.
    """
    if not devices:
        raise RolloutError("no device may get the model: none is known, or all are pinned")
    first = parse_canary(canary, devices)

    def place(name: str) -> tuple[bool, bool, str]:
        drawn = hashlib.sha256(f"{version}:{name}".encode()).hexdigest()
        return (isinstance(first, int) or name not in first, name not in online, drawn)

    ordered = sorted(devices, key=place)
    ends = [first if isinstance(first, int) else len(first)]
    ends += [math.ceil(share / 100 * len(ordered) - 1e-9) for share in stages] + [len(ordered)]
    waves, begin = [], 0
    for end in ends:
        if end > begin:
            waves.append(tuple(ordered[begin:end]))
            begin = end
    return tuple(waves)


def waves_text(waves: Sequence[Collection[str]]) -> str:
    """Their sizes in words: ``2 devices, then 6, then 12``."""
    first, *later = map(len, waves)
    return ", then ".join([f"{first} device{'s' if first != 1 else ''}", *map(str, later)])
