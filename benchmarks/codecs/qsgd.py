"""Random rounding to levels of the norm, so that the mean of what is sent is what was meant.

Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding, 2017,
https://arxiv.org/abs/1610.02132. A value v of a bucket becomes ``|bucket| * sign(v) * level / s``, its level
``s |v| / |bucket|`` rounded up or down by chance. Coded in the paper's way for dense buckets: level + 1 in an
Elias code, and a sign for what is not 0, about 3 bits a value with s = sqrt(n). The Elias code is the gamma
one, which for these small numbers is as short as the recursive one; all lengths come first, then the bits
behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.codecs.codec import Floats, VectorCodec
from compression.updates.bits import (
    pack_flags,
    pack_ragged,
    unpack_flags,
    unpack_ragged,
)


@dataclass(frozen=True, slots=True)
class Qsgd(VectorCodec):
    """Norms as float32, signs, lengths, bits; the last two behind their byte counts.

    Attributes:
        levels: s of the paper.
        bucket: values that share a norm.
    """

    levels: int = 22  # about the root of the bucket
    bucket: int = 512

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:
        """Round by chance and code."""
        norms, levels = self._quantise(values, rng)
        numbers = levels + np.uint32(1)
        widths = _bit_lengths(numbers) - np.uint8(1)
        lengths = np.zeros(int(widths.sum(dtype=np.int64)) + widths.size, np.bool_)
        lengths[np.cumsum(widths.astype(np.int64) + 1) - 1] = True
        signs = pack_flags(values[levels > 0] < 0)
        unary = pack_flags(lengths)
        head = np.array([len(unary), len(signs)], "<u4").tobytes()
        return head + norms.astype("<f4").tobytes() + unary + signs + pack_ragged(numbers, widths)

    def unpack(self, data: bytes, size: int) -> Floats:
        """Norm times level over s."""
        unary_size, signs_size = np.frombuffer(data, "<u4", 2).tolist()
        buckets = -(-size // self.bucket)
        norms = np.frombuffer(data, "<f4", buckets, offset=8).astype(np.float32)
        unary_at = 8 + 4 * buckets
        signs_at, rest_at = unary_at + unary_size, unary_at + unary_size + signs_size
        ends = np.flatnonzero(unpack_flags(data[unary_at:signs_at], 8 * unary_size))
        widths = (np.diff(ends, prepend=-1) - 1).astype(np.uint8)
        numbers = unpack_ragged(data[rest_at:], widths) | (np.uint32(1) << widths.astype(np.uint32))
        padded = np.zeros((buckets, self.bucket), np.float32)
        values = padded.ravel()[:size]
        values[:] = numbers - np.uint32(1)
        taken = np.flatnonzero(values)
        values[taken[unpack_flags(data[signs_at:rest_at], taken.size)]] *= np.float32(-1)
        padded *= (norms / np.float32(self.levels))[:, np.newaxis]
        return values

    def _quantise(self, values: Floats, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.uint32]]:
        padded = np.zeros((-(-values.size // self.bucket), self.bucket), np.float32)
        padded.ravel()[: values.size] = values
        norms = np.sqrt(np.einsum("ij,ij->i", padded, padded, dtype=np.float64)).astype(np.float32)
        np.abs(padded, out=padded)
        padded *= np.divide(self.levels, norms, out=np.zeros_like(norms), where=norms > 0)[:, np.newaxis]
        scaled = padded.ravel()[: values.size]
        scaled += rng.random(values.size, np.float32)
        return norms, scaled.astype(np.uint32)


def _bit_lengths(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Of numbers from 1: the exponent of the float32 that each is, levels being small."""
    return np.frexp(numbers.astype(np.float32))[1].astype(np.uint8)
