"""The lossy stages, each a function of arrays: choose, quantise, code positions.

Magnitudes are quantised between the smallest and the largest of their block, not between 0 and the
largest: what was worth a position in the payload never comes out as 0, and a block of top values spends
all its levels where its values are. One level makes it sparse ternary coding (Sattler et al., 2019), or
1-bit coding with a scale (Seide et al., 2014; Karimireddy et al., 2019) when nothing was pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.updates import integers
from compression.updates.bits import Bytes, pack_flags, packed_size, unpack_flags
from compression.updates.errors import CodecError

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

NEGLIGIBLE = np.float32(
    2.0**-100
)  # below it arithmetic could meet subnormals, which some 32-bit Arm units flush
ALL, BITMAP, GAPS = 0, 1, 2
_SAMPLE = 4096  # values by which the smallest kept one is looked for


# ---- choose ----


def keep_largest(values: Floats, count: int) -> Positions:
    """Ascending positions of the `count` largest magnitudes, ties by position; none of negligible ones."""
    magnitudes = np.abs(values)
    if count >= values.size:
        return _where(magnitudes >= NEGLIGIBLE)
    threshold = nth_largest(magnitudes, count)
    if threshold < NEGLIGIBLE:
        return _where(magnitudes >= NEGLIGIBLE)
    chosen = _where(magnitudes >= threshold)
    if chosen.size > count:
        ties = np.flatnonzero(magnitudes[chosen] == threshold)
        chosen = np.delete(chosen, ties[count - chosen.size :])
    return chosen


def nth_largest(magnitudes: Floats, count: int) -> np.float32:
    """The `count`-th largest. A sample says which can be it, so that few have to be put in order."""
    sample = a_sample(magnitudes)
    expected = count * sample.size / magnitudes.size
    place = math.ceil(expected + 4 * math.sqrt(expected) + 4)  # four deviations of its rank in the sample
    if place < sample.size:
        candidates = magnitudes[magnitudes >= np.partition(sample, -place)[-place]]
        if candidates.size >= count:
            return np.float32(np.partition(candidates, candidates.size - count)[candidates.size - count])
    return np.float32(np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count])


def a_sample(values: Floats) -> Floats:
    """Some thousand of the values, of all parts alike."""
    return values[:: max(values.size // _SAMPLE, 1)]


def _where(flags: Flags) -> Positions:
    if flags.all():  # flatnonzero would take 8 bytes an element on the way
        return np.arange(flags.size, dtype=np.int32)
    return np.flatnonzero(flags).astype(np.int32)  # models have less than 2**31 elements


# ---- quantise ----


@dataclass(frozen=True, slots=True)
class Quantised:
    """Values as signs, levels, and for each block where the levels begin and how far apart they are."""

    negative: Flags
    levels: npt.NDArray[np.uint8]
    low: Floats
    step: Floats
    block: int

    def values(self) -> Floats:
        """What these stand for; the same bits on every machine: one float32 product, one sum, one sign."""
        magnitudes = self.levels.astype(np.float32)
        _by_block(np.multiply, magnitudes, self.step, self.block)
        _by_block(np.add, magnitudes, self.low, self.block)
        return np.negative(magnitudes, where=self.negative, out=magnitudes)


def _by_block(operation: np.ufunc, values: Floats, scales: Floats, block: int) -> None:
    """In place, each block of values with its own scale; no array of repeated scales is made."""
    full = values.size // block * block
    rows = values[:full].reshape(-1, block)
    operation(rows, scales[: len(rows), np.newaxis], out=rows)
    if full < values.size:
        operation(values[full:], scales[-1], out=values[full:])


def quantise(values: Floats, levels: int, block: int, rng: np.random.Generator | None) -> Quantised:
    """Round magnitudes to one of `levels` in each block; up or down by chance if there is an `rng`."""
    if values.size == 0:
        return Quantised(values < 0, np.zeros(0, np.uint8), values, values, block)
    magnitudes = np.abs(values)
    starts = np.arange(0, values.size, block)
    if levels == 1:
        sizes = np.diff(starts, append=values.size)
        low = (np.add.reduceat(magnitudes, starts, dtype=np.float64) / sizes).astype(np.float32)
        return Quantised(values < 0, np.zeros(values.size, np.uint8), low, np.zeros_like(low), block)
    low = np.minimum.reduceat(magnitudes, starts)
    low[low < NEGLIGIBLE] = 0
    step = (np.maximum.reduceat(magnitudes, starts) - low) / np.float32(levels - 1)
    step[step < NEGLIGIBLE] = 0
    _by_block(np.subtract, magnitudes, low, block)
    _by_block(np.divide, magnitudes, np.where(step > 0, step, np.float32(1)), block)
    magnitudes += np.float32(0.5) if rng is None else rng.random(values.size, np.float32)
    np.clip(magnitudes, 0, levels - 1, out=magnitudes)
    return Quantised(values < 0, magnitudes.astype(np.uint8), low, step, block)


# ---- positions ----


def encode_positions(positions: Positions, size: int) -> bytes:
    """Which of `size` places are taken: all, by a bitmap, or by the gaps between them."""
    if positions.size == size:
        return bytes([ALL])
    gaps = np.diff(positions.astype(np.int32, copy=False), prepend=np.int32(-1))
    gaps -= 1
    coded = integers.encode(gaps.view(np.uint32))
    if len(coded) < packed_size(size):
        return bytes([GAPS]) + coded
    taken = np.zeros(size, np.bool_)
    taken[positions] = True
    return bytes([BITMAP]) + pack_flags(taken)


def decode_positions(data: Bytes, count: int, size: int) -> Positions:
    """Inverse of `encode_positions`; raise `CodecError` for anything else."""
    method, body = data[0] if len(data) else ALL, data[1:]
    if method == ALL and not len(body) and count == size:
        return np.arange(size, dtype=np.int32)
    if method == BITMAP and count < size:
        positions = _where(unpack_flags(body, size))
        last = int(positions[-1]) if positions.size else -1
    elif method == GAPS and count < size:
        gaps = integers.decode(body, count, size)
        last = int(gaps.sum(dtype=np.int64)) + count - 1
        gaps += np.uint32(1)
        positions = np.cumsum(gaps, dtype=np.int32) - np.int32(1)
    else:
        raise CodecError(f"positions of {count} in {size} by method {method}")
    if positions.size != count or last >= size:
        raise CodecError(f"positions do not name {count} of {size} places")
    return positions
