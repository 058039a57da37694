"""float32 as integers: exactly, in byte planes, or with a shortened mantissa.

Both turn the bit pattern left by one, so that the exponent, which is all that compresses well, stands
alone: exponent 8 bits, mantissa 23, sign 1.
"""

from __future__ import annotations

import lzma
import zlib

import numpy as np
import numpy.typing as npt

from compression.updates import integers, rans
from compression.updates.bits import Bytes
from compression.updates.errors import CodecError
from compression.updates.sections import Reader, Writer

Floats = npt.NDArray[np.float32]

RAW, ZLIB, LZMA, RANS = 0, 1, 2, 3
_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]
_TRY_ALL_BELOW = 1 << 20  # bytes; lzma takes a second a MB on a Pi
_SAMPLE = 1 << 12  # bytes that say whether a plane's frequencies are worth coding
_TRIALS, _TRIAL = 4, 1 << 14  # samples of a larger plane, and their bytes


# ---- exact ----


def write_exact(values: Floats, to: Writer, *, quick: bool = False) -> None:
    """Four sections: exponents, upper and middle mantissa byte, low 7 mantissa bits with the sign."""
    turned = values.view(np.uint32) << np.uint32(1)
    turned |= values.view(np.uint32) >> np.uint32(31)
    del values  # the caller's only if it keeps it: a quarter of the memory at work
    planes = turned.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
    for plane in (3, 2, 1, 0):
        to.section(squeeze(np.ascontiguousarray(planes[:, plane]), quick=quick))


def read_exact(reader: Reader, count: int) -> Floats:
    """Inverse of `write_exact`; raise `CodecError` for anything else, or a value that is not finite."""
    planes = np.empty((count, 4), np.uint8)
    for plane in (3, 2, 1, 0):
        planes[:, plane] = unsqueeze(reader.section(), count)
    turned = planes.reshape(-1).view("<u4").astype(np.uint32, copy=False)
    del planes
    pattern = turned >> np.uint32(1)
    turned <<= np.uint32(31)
    pattern |= turned
    values = pattern.view(np.float32)
    if not np.isfinite(values).all():
        raise CodecError("a value is not finite")
    return values


def squeeze(plane: npt.NDArray[np.uint8], *, quick: bool = False) -> bytes:
    """The plane by the method that makes it smallest, which the first byte names.

    `quick` tries zlib alone, where frequencies of a sample promise something: a hundredth of the time, and as
    few bytes for a model's weights.
    """
    candidates = [bytes([RAW]) + plane.tobytes()]
    if quick:
        sample = plane[:: max(plane.size // _SAMPLE, 1)]
        estimate = rans.estimated_size(rans.histogram(sample))
        if estimate < 0.98 * sample.size:
            candidates.append(bytes([ZLIB]) + _deflated(plane, repeated=estimate < sample.size / 16))
        return min(candidates, key=len)
    estimate = rans.estimated_size(rans.histogram(plane))
    if plane.size and estimate < 0.995 * plane.size:
        candidates.append(bytes([RANS]) + rans.encode(plane))
    if plane.size <= _TRY_ALL_BELOW or _repeats(plane, min(0.9, 0.9 * estimate / plane.size)):
        candidates.append(bytes([ZLIB]) + zlib.compress(plane.tobytes(), 6))
    if plane.size <= _TRY_ALL_BELOW:
        packed = lzma.compress(plane.tobytes(), lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
        candidates.append(bytes([LZMA]) + packed)
    return min(candidates, key=len)


def _deflated(plane: npt.NDArray[np.uint8], *, repeated: bool) -> bytes:
    """Without a search for repetitions, unless nearly all is one: Huffman's codes have a bit at least."""
    coder = zlib.compressobj(1, strategy=zlib.Z_DEFAULT_STRATEGY if repeated else zlib.Z_HUFFMAN_ONLY)
    return coder.compress(plane.tobytes()) + coder.flush()


def _repeats(plane: npt.NDArray[np.uint8], ratio: float) -> bool:
    """Whether zlib, which finds repetitions where `rans` sees frequencies, gets below `ratio` on samples."""
    starts = np.linspace(0, plane.size - _TRIAL, _TRIALS).astype(int)
    sizes = [len(zlib.compress(plane[start : start + _TRIAL].tobytes(), 6)) for start in starts]
    return sum(sizes) < ratio * _TRIALS * _TRIAL


def unsqueeze(data: Bytes, count: int) -> npt.NDArray[np.uint8]:
    method, body = data[0] if len(data) else RAW, data[1:]
    if method == RANS and count:
        symbols, used = rans.decode(body, count)
        if used != len(body):
            raise CodecError(f"{len(body) - used} bytes after an entropy-coded plane")
        return symbols
    plain = _decompress(method, body, count)
    if len(plain) != count:
        raise CodecError(f"a plane of {len(plain)} bytes or more, expected {count}")
    return np.frombuffer(plain, np.uint8)


def _decompress(method: int, body: Bytes, count: int) -> Bytes:
    """At most one byte more than `count`, whatever `body` would become."""
    if method == RAW:
        return body
    decompressor: zlib._Decompress | lzma.LZMADecompressor
    try:
        if method == ZLIB:
            decompressor = zlib.decompressobj()
            plain = decompressor.decompress(body, count + 1)
        elif method == LZMA:
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
            plain = decompressor.decompress(body, count + 1)
        else:
            raise CodecError(f"unknown method {method} for a plane")
    except (zlib.error, lzma.LZMAError, EOFError) as exc:
        raise CodecError(f"a plane does not decompress: {exc}") from exc
    if not decompressor.eof or decompressor.unused_data:
        raise CodecError("a compressed plane is cut off or has bytes to spare")
    return plain


# ---- short mantissa ----


def shorten(values: Floats, mantissa: int, *, towards_zero: bool) -> Floats:
    """Each value with `mantissa` bits after the leading one; zero, subnormals and the sign of zero go to 0.

    Towards zero, the result lies between 0 and the value: statistics moved by it stay between old and
    new, so a variance stays positive however few bits there are.
    """
    pattern = np.array(values, np.float32).view(np.uint32)
    dropped = 23 - mantissa
    if not towards_zero and dropped:
        pattern += np.uint32(1 << (dropped - 1))
    pattern &= np.uint32((0xFFFFFFFF << dropped) & 0xFFFFFFFF)
    pattern[pattern & np.uint32(0x7F800000) == 0] = 0
    return pattern.view(np.float32)


def write_short(values: Floats, mantissa: int, to: Writer) -> None:
    """Two sections for what `shorten` returns: exponents below the highest, then mantissas with the signs."""
    pattern = np.asarray(values, np.float32).view(np.uint32)
    exponents = (pattern >> np.uint32(23)) & np.uint32(255)
    top = int(exponents.max()) if values.size else 0
    mantissas = (pattern >> np.uint32(23 - mantissa)) & np.uint32((1 << mantissa) - 1)
    tails = ((mantissas << np.uint32(1)) | (pattern >> np.uint32(31)))[exponents > 0]
    to.section(bytes([top]) + integers.encode(np.uint32(top) - exponents) if values.size else b"")
    to.section(integers.encode(tails))


def read_short(reader: Reader, count: int, mantissa: int) -> Floats:
    """Inverse of `write_short`; raise `CodecError` for anything else, or a value that is not finite."""
    heads, tails = reader.section(), reader.section()
    if not count:
        if len(heads) or len(tails):
            raise CodecError("values of whole tensors where there are none")
        return np.zeros(0, np.float32)
    top = heads[0] if len(heads) else 255
    if top == 255:
        raise CodecError("a whole tensor holds a value that is not finite, or none")
    exponents = np.uint32(top) - integers.decode(heads[1:], count, top + 1)
    used = exponents > 0
    ends = integers.decode(tails, int(np.count_nonzero(used)), 2 << mantissa)
    pattern = exponents << np.uint32(23)
    pattern[used] |= ((ends >> np.uint32(1)) << np.uint32(23 - mantissa)) | (ends << np.uint32(31))
    return pattern.view(np.float32)
