"""A model's file as a patch to one that the device has, or packed: whichever way is the shortest.

Little-endian, framed by `compression.updates.sections` (magic "BRMP", kind, CRC32); after the header the
length of the file in 8 bytes, then one section or four::

    kind 0  packed   the file, as one plane of bytes
    kind 1  bytes    the differences of its bytes, modulo 256: int8 weights that moved a little
    kind 2  words    the zigzag differences of its 32-bit words in four planes, lowest byte first:
                     float32 weights that moved a little differ in their low bits
    kind 3  bsdiff   Colin Percival's BSDIFF40: files that grew, shrank or were laid out anew

Planes are coded as the update codec codes those of a model without loss (`compression.updates.floats`).
The server makes patches with bsdiff4, which has no wheel for 32-bit Arm; reading one takes NumPy and bz2.
What a patch gives is checked against the digest that was signed: a wrong base or a wrong patch is an error.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from compression.updates.errors import CodecError
from compression.updates.floats import squeeze, unsqueeze
from compression.updates.sections import Reader, Writer

MAGIC = b"BRMP"
PACKED, BYTES, WORDS, BSDIFF = range(4)
SPARE_BYTES = 4096  # that a patch may be longer than its file
_LENGTH = struct.Struct("<Q")
_BSDIFF_MAGIC = b"BSDIFF40"

Plane = npt.NDArray[np.uint8]


def pack_file(new: bytes) -> bytes:
    """A file by itself."""
    return _written(PACKED, new, [squeeze(np.frombuffer(new, np.uint8))])


def aligned_patches(old: bytes, new: bytes) -> Iterator[bytes]:
    """Patches between files of one length: by bytes, and by words where the length allows it."""
    if len(old) != len(new):
        return
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    yield _written(BYTES, new, [squeeze(after - before)])
    if len(new) % 4 == 0:
        difference = (after.view("<u4") - before.view("<u4")).view("<i4")
        zigzag = ((difference << 1) ^ (difference >> 31)).astype("<u4")
        planes = zigzag.view(np.uint8).reshape(-1, 4)
        yield _written(WORDS, new, [squeeze(np.ascontiguousarray(planes[:, plane])) for plane in range(4)])


def bsdiff_patch(patch: bytes, new: bytes) -> bytes:
    """Frame a BSDIFF40 patch that leads to `new`."""
    return _written(BSDIFF, new, [patch])


def apply_patch(patch: bytes, old: bytes, size: int) -> bytes:
    """The file that a patch makes of another; `old` is ignored by a packed one.

    Raises:
        CodecError: not a patch, not for `old`, or of another length than `size`.
    """
    reader = Reader(patch, MAGIC, size + SPARE_BYTES)
    (length,) = _LENGTH.unpack(reader.fields(_LENGTH.size))
    if length != size:
        raise CodecError(f"the patch makes {length} bytes, {size} were signed")
    if reader.kind in (BYTES, WORDS) and len(old) != size:
        raise CodecError(f"the patch is for a file of {size} bytes, this one has {len(old)}")
    if reader.kind == PACKED:
        new = bytes(unsqueeze(reader.section(), size))
    elif reader.kind == BYTES:
        new = (np.frombuffer(old, np.uint8) + unsqueeze(reader.section(), size)).tobytes()
    elif reader.kind == WORDS and size % 4 == 0:
        new = _from_words(old, [unsqueeze(reader.section(), size // 4) for _ in range(4)])
    elif reader.kind == BSDIFF:
        new = _from_bsdiff(bytes(reader.section()), old, size)
    else:
        raise CodecError(f"unknown kind of patch {reader.kind} for {size} bytes")
    reader.end()
    return new


def _written(kind: int, new: bytes, sections: list[bytes]) -> bytes:
    writer = Writer(MAGIC, kind)
    writer.fields(_LENGTH.pack(len(new)))
    for section in sections:
        writer.section(section)
    return writer.finish()


def _from_words(old: bytes, planes: list[Plane]) -> bytes:
    zigzag = np.ascontiguousarray(np.stack(planes, axis=1)).reshape(-1).view("<u4")
    difference = (zigzag >> np.uint32(1)) ^ (np.uint32(0) - (zigzag & np.uint32(1)))
    return (np.frombuffer(old, "<u4") + difference).astype("<u4").tobytes()


# ---- BSDIFF40 ----


def _from_bsdiff(patch: bytes, old: bytes, size: int) -> bytes:
    """As bspatch does it: add a stretch of the old file, then insert new bytes, then move on."""
    if len(patch) < 32 or patch[:8] != _BSDIFF_MAGIC:
        raise CodecError("not a BSDIFF40 patch")
    control_bytes, added_bytes, length = (_offset(patch[at : at + 8]) for at in (8, 16, 24))
    if (
        length != size
        or control_bytes < 0
        or added_bytes < 0
        or 32 + control_bytes + added_bytes > len(patch)
    ):
        raise CodecError("the BSDIFF40 header does not fit")
    ends = 32 + control_bytes, 32 + control_bytes + added_bytes
    control = _unpacked(patch[32 : ends[0]], 24 * (size + 1))
    added, extra = (
        np.frombuffer(_unpacked(stream, size), np.uint8)
        for stream in (patch[ends[0] : ends[1]], patch[ends[1] :])
    )
    new, before = np.empty(size, np.uint8), np.frombuffer(old, np.uint8)
    at = from_old = from_added = from_extra = 0
    for start in range(0, len(control), 24):
        add, insert, move = (_offset(control[start + part : start + part + 8]) for part in (0, 8, 16))
        fits = 0 <= add <= len(added) - from_added and 0 <= insert <= len(extra) - from_extra
        if not fits or at + add + insert > size:
            raise CodecError("a step of the BSDIFF40 patch does not fit")
        new[at : at + add] = added[from_added : from_added + add]
        low, high = max(0, from_old), min(len(before), from_old + add)
        if high > low:
            new[at + low - from_old : at + high - from_old] += before[low:high]
        new[at + add : at + add + insert] = (
            np.frombuffer(extra, np.uint8, insert, from_extra) if insert else 0
        )
        at, from_added, from_extra = at + add + insert, from_added + add, from_extra + insert
        from_old += add + move
    if at != size:
        raise CodecError(f"the BSDIFF40 patch makes {at} bytes, {size} were signed")
    return new.tobytes()


def _offset(eight: bytes) -> int:
    """Sign and magnitude, not two's complement."""
    number = int.from_bytes(eight, "little")
    return -(number & (1 << 63) - 1) if number >> 63 else number


def _unpacked(data: bytes, limit: int) -> bytes:
    try:
        decompressor = bz2.BZ2Decompressor()
        plain = decompressor.decompress(data, limit + 1)
    except (OSError, ValueError, EOFError) as exc:
        raise CodecError(f"a stream of the BSDIFF40 patch cannot be read: {exc}") from exc
    if not decompressor.eof or len(plain) > limit:
        raise CodecError("a stream of the BSDIFF40 patch is cut off or longer than the file")
    return plain
