"""Sparse ternary compression: the largest magnitudes as their mean with a sign, positions by Golomb codes.

Sattler et al., Robust and Communication-Efficient Federated Learning from Non-IID Data, 2019,
https://arxiv.org/abs/1903.02891, with feedback on both sides. The remainders of all positions come first and
their unary parts after them, the same bits as code after code.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from benchmarks.codecs.codec import Floats, VectorCodec
from compression.updates.bits import pack_flags, pack_planes, packed_size, unpack_flags, unpack_planes

GOLDEN_RATIO = (math.sqrt(5) + 1) / 2
_HEAD = struct.Struct("<If")  # kept values, their mean magnitude


def golomb_bits(density: float) -> int:
    """Bits of a remainder that make gaps at this density shortest (b* of the paper)."""
    if density >= 1:
        return 0
    return max(0, 1 + math.floor(math.log2(math.log(GOLDEN_RATIO - 1) / math.log1p(-density))))


def bits_per_position(density: float) -> float:
    """Mean length of a position's code (the paper's b_pos)."""
    bits = golomb_bits(density)
    return bits + 1 / (1 - math.pow(1 - density, 2**bits))


@dataclass(frozen=True, slots=True)
class SparseTernary(VectorCodec):
    """Keeps a share of the values.

    Attributes:
        density: that share, p of the paper.
    """

    density: float = 0.01

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is drawn
        """Mean magnitude, remainders, signs and unary parts."""
        kept = min(max(int(self.density * values.size), 1), values.size)
        magnitudes = np.abs(values)
        positions = np.sort(np.argpartition(magnitudes, values.size - kept)[values.size - kept :])
        mean = float(magnitudes[positions].mean(dtype=np.float64)) if kept else 0.0
        width = golomb_bits(kept / values.size) if kept else 0
        gaps = np.diff(positions, prepend=-1) - 1
        ends = np.cumsum((gaps >> width) + 1) - 1
        unary = np.zeros(int(ends[-1]) + 1 if kept else 0, np.bool_)
        unary[ends] = True
        remainders = pack_planes((gaps & ((1 << width) - 1)).astype(np.uint32), width)
        signs = pack_flags(values[positions] < 0)
        return _HEAD.pack(kept, mean) + remainders + signs + pack_flags(unary)

    def unpack(self, data: bytes, size: int) -> Floats:
        """Plus or minus the mean, and zeros."""
        kept, mean = _HEAD.unpack_from(data)
        values = np.zeros(size, np.float32)
        if not kept:
            return values
        width = golomb_bits(kept / size)
        signs_at = _HEAD.size + packed_size(width * kept)
        unary_at = signs_at + packed_size(kept)
        remainders = unpack_planes(data[_HEAD.size : signs_at], kept, width)
        negative = unpack_flags(data[signs_at:unary_at], kept)
        ends = np.flatnonzero(unpack_flags(data[unary_at:], 8 * (len(data) - unary_at)))
        gaps = ((np.diff(ends, prepend=-1) - 1) << width) + remainders
        values[np.cumsum(gaps + 1) - 1] = np.where(negative, np.float32(-mean), np.float32(mean))
        return values
