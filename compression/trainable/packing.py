"""Tensors that do not live at the same time share memory, as TFLite and XNNPACK place them.

The largest first, each into the smallest gap that holds it between those placed before whose lives overlap
its own ("greedy by size": Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ALIGNMENT = 64  # bytes; of TFLite's arena and of XNNPACK's workspace


class Life(NamedTuple):
    """One tensor: its bytes, and the steps from which to which it must be kept."""

    size: int
    first: int
    last: int


def packed_bytes(lives: Iterable[Life]) -> int:
    """The memory that holds them all."""
    placed: list[tuple[int, int, Life]] = []  # start, end
    for life in sorted(lives, key=lambda each: (-each.size, each.first)):
        size = -(-life.size // ALIGNMENT) * ALIGNMENT
        taken = sorted((start, end) for start, end, other in placed if _overlap(life, other))
        start = _best_gap(taken, size)
        placed.append((start, start + size, life))
    return max((end for _, end, _ in placed), default=0)


def _overlap(one: Life, other: Life) -> bool:
    return one.first <= other.last and other.first <= one.last


def _best_gap(taken: list[tuple[int, int]], size: int) -> int:
    """Where the smallest gap begins that is large enough; the end if there is none."""
    best, smallest, end = None, 0, 0
    for start, until in taken:
        gap = start - end
        if gap >= size and (best is None or gap < smallest):
            best, smallest = end, gap
        end = max(end, until)
    return end if best is None else best
