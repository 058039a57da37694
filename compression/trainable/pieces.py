"""Large batches part by part, so that what they unroll to stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any
PIECE_BYTES = 4 << 20  # of unrolled pictures at a time: 16 pieces were as fast as one (measured)


def pieces(count: int, total_bytes: int) -> int:
    """Into how many equal parts to split `count` things that unroll to `total_bytes`."""
    wanted = -(-total_bytes // PIECE_BYTES)
    return next((parts for parts in range(1, count + 1) if parts >= wanted and count % parts == 0), count)


def in_pieces(compute: Callable[[Tensor], Tensor], x: Tensor, total_bytes: int) -> Tensor:
    """``compute(x)``, the first axis taken piece by piece."""
    parts = pieces(int(x.shape[0]), total_bytes)
    if parts == 1:
        return compute(x)
    return tf.concat([compute(part) for part in tf.split(x, parts)], axis=0)


def sum_of_pieces(
    compute: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, total_bytes: int
) -> Tensor:
    """``compute(x, y)``, which adds over the first axis, piece by piece."""
    parts = pieces(int(x.shape[0]), total_bytes)
    if parts == 1:
        return compute(x, y)
    pairs = zip(tf.split(x, parts), tf.split(y, parts), strict=True)
    return tf.add_n([compute(one, other) for one, other in pairs])
