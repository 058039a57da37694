"""One bit a value: the signs of a randomly rotated vector, and one scale.

Vargaftik et al., DRIVE: One-bit Distributed Mean Estimation, 2021, https://arxiv.org/abs/2105.08339, with its
randomised Hadamard transform and its unbiased scale, ``|x|_2^2 / |R(x)|_1``; EDEN (Vargaftik et al., 2022,
https://arxiv.org/abs/2108.08842) at one bit is the same. The squared error of a long vector is pi/2 - 1 of
its square. A vector is cut into pieces whose lengths are powers of two, each rotated and scaled by itself, so
that no bit is spent on padding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.codecs.codec import Floats, VectorCodec
from compression.updates.bits import pack_flags, packed_size, unpack_flags

LONGEST = 1 << 16  # of a piece: a scale then costs nothing, and a transform still fits the cache
_SEED = struct.Struct("<Q")


def hadamard(rows: Floats) -> None:
    """The orthonormal Walsh-Hadamard transform of each row, in place; it is its own inverse."""
    length = rows.shape[1]
    half = 1
    while half < length:
        pairs = rows.reshape(rows.shape[0], -1, 2, half)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        first += second  # a + b
        second *= np.float32(-2)
        second += first  # a + b - 2 b
        half *= 2
    rows *= np.float32(length**-0.5)


def pieces(values: Floats) -> Iterator[Floats]:
    """Views of it as rows of one length: as many of the longest as there are, then ever shorter ones."""
    start, length = 0, LONGEST
    while length:
        count = (values.size - start) // length
        if count:
            yield values[start : start + count * length].reshape(count, length)
        start += count * length
        length //= 2


@dataclass(frozen=True, slots=True)
class Drive(VectorCodec):
    """The seed of the rotation, a scale a piece, a bit a value."""

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:
        """Rotate, and keep the signs."""
        seed = int(rng.integers(1 << 63))
        rotated = _flip(values, seed)
        scales = []
        for rows in pieces(rotated):
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            hadamard(rows)
            lengths = np.abs(rows).sum(axis=1, dtype=np.float64)
            scales.append(np.divide(squares, lengths, out=np.zeros_like(squares), where=lengths > 0))
        joined = np.concatenate([np.zeros(0), *scales]).astype("<f4")
        return _SEED.pack(seed) + joined.tobytes() + pack_flags(rotated < 0)

    def unpack(self, data: bytes, size: int) -> Floats:
        """Signs times scales, rotated back."""
        (seed,) = _SEED.unpack_from(data)
        signs_at = len(data) - packed_size(size)
        scales = np.frombuffer(data[_SEED.size : signs_at], "<f4").astype(np.float32)
        values = np.where(unpack_flags(data[signs_at:], size), np.float32(-1), np.float32(1))
        start = 0
        for rows in pieces(values):
            np.multiply(rows, scales[start : start + len(rows), np.newaxis], out=rows)
            start += len(rows)
            hadamard(rows)
        return _flip(values, seed)


def _flip(values: Floats, seed: int) -> Floats:
    """With random signs; twice is the identity."""
    random = np.frombuffer(
        np.random.Generator(np.random.PCG64(seed)).bytes(packed_size(values.size)), np.uint8
    )
    flags = np.unpackbits(random, count=values.size).view(np.bool_)
    return np.negative(values, where=flags, out=values.copy())
