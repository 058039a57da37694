"""Bit planes: integers of any width as packed bits, most significant plane first.

Planes instead of one code after the other, because a plane is one NumPy operation over all values,
whatever their number, and values of different widths fit the same scheme: a value that is too short
for a plane has no bit in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compression.updates.errors import CodecError

Bytes = bytes | memoryview
Unsigned = npt.NDArray[np.uint32]


def packed_size(bits: int) -> int:
    """Bytes that hold so many bits."""
    return (bits + 7) // 8


def pack_flags(flags: npt.NDArray[np.bool_]) -> bytes:
    """One bit a flag, first flag in the most significant bit of the first byte."""
    return np.packbits(flags).tobytes()


def unpack_flags(data: Bytes, count: int) -> npt.NDArray[np.bool_]:
    """Inverse of `pack_flags`.

    Raises:
        CodecError: another length than `count` flags have, or padding that is not zero.
    """
    _check_length(data, count)
    return _slice_of_flags(data, 0, count)


def pack_planes(values: Unsigned, width: int) -> bytes:
    """`values` as `width` bits each."""
    bits = np.empty(width * values.size, np.bool_)
    for plane, row in enumerate(bits.reshape(width, values.size)):
        np.not_equal(values & np.uint32(1 << (width - 1 - plane)), 0, out=row)
    return pack_flags(bits)


def unpack_planes(data: Bytes, count: int, width: int) -> Unsigned:
    """Inverse of `pack_planes`."""
    _check_length(data, width * count)
    values = np.zeros(count, np.uint32)
    for plane in range(width):
        values <<= np.uint32(1)
        values |= _slice_of_flags(data, plane * count, count)
    return values


def pack_ragged(values: Unsigned, widths: npt.NDArray[np.uint8]) -> bytes:
    """The lowest ``widths[i]`` bits of each ``values[i]``."""
    planes = []
    for plane in reversed(range(_widest(widths))):
        present = widths > plane
        planes.append((values[present] >> np.uint32(plane)) & np.uint32(1) != 0)
    return pack_flags(np.concatenate(planes)) if planes else b""


def unpack_ragged(data: Bytes, widths: npt.NDArray[np.uint8]) -> Unsigned:
    """Inverse of `pack_ragged`."""
    _check_length(data, int(widths.sum(dtype=np.int64)))
    values = np.zeros(widths.size, np.uint32)
    start = 0
    for plane in reversed(range(_widest(widths))):
        present = np.flatnonzero(widths > plane)
        row = _slice_of_flags(data, start, present.size)
        values[present] |= row.astype(np.uint32) << np.uint32(plane)
        start += present.size
    return values


def _check_length(data: Bytes, bits: int) -> None:
    if len(data) != packed_size(bits):
        raise CodecError(f"{len(data)} bytes of packed bits, expected {packed_size(bits)}")
    if bits % 8 and data[-1] & ((1 << (-bits % 8)) - 1):
        raise CodecError("padding bits are not zero")


def _slice_of_flags(data: Bytes, start: int, count: int) -> npt.NDArray[np.bool_]:
    """A slice at a time: a byte a bit for all planes together would be many times the values' size."""
    part = np.frombuffer(data[start // 8 : packed_size(start + count)], np.uint8)
    flags = np.unpackbits(part, count=start % 8 + count)[start % 8 :]
    return flags.view(np.bool_)


def _widest(widths: npt.NDArray[np.uint8]) -> int:
    return int(widths.max()) if widths.size else 0
