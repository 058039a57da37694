"""Coding of unsigned integers: fixed width, Rice, or tokens through the entropy coder.

Which is the smallest depends on how many integers there are and how they are spread, so the first byte
says which was taken:

``FIXED``   1 byte width w, then bit planes. For a handful of values.
``RICE``    1 byte r, then the r low bits as planes, then the quotients in unary (Rice, 1979). Within 3 % of
            the best for gaps between random positions, and needs no table.
``TOKENS``  1 byte m. A value below 2**m is its own token; a larger one gives its bit length and the m bits
            after the leading one as a token, the bits below as they are (the hybrid integers of JPEG XL).
            Tokens go through `rans`. For gaps that cluster and for values that decay.
``DEFLATED`` the same tokens by zlib's Huffman coding, where that is nearly as small: for a few thousand of
            them, too few to advance many states of `rans` at once, it takes a fiftieth of the time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from compression.updates import rans
from compression.updates.bits import (
    Bytes,
    Unsigned,
    pack_flags,
    pack_planes,
    pack_ragged,
    packed_size,
    unpack_flags,
    unpack_planes,
    unpack_ragged,
)
from compression.updates.errors import CodecError

FIXED, RICE, TOKENS, DEFLATED = 0, 1, 2, 3
Decoder = Callable[[Bytes, int], tuple[rans.Symbols, int]]

MAX_BITS = 27  # of a value: positions in 100 million parameters
MAX_MANTISSA = 7
_CHUNK = 1 << 16  # values whose intermediate results exist at a time
_SAMPLE = 1 << 16  # values by which the number of mantissa bits is chosen
_PLAIN = 32  # bytes that tokens seldom go below: method, table and state take half of them
_NEARLY = 1.03  # so many times the bytes of `rans` are worth its time


def encode(values: Unsigned) -> bytes:
    """Code integers below 2**27 in the fewest bytes."""
    if values.size == 0:
        return b""
    width = int(values.max()).bit_length()
    low_bits, rice_size = _rice_parameter(values)
    fixed_size = 2 + packed_size(width * values.size)
    plain_size = min(rice_size, fixed_size)
    if plain_size > _PLAIN:
        mantissa, estimate = _mantissa_bits(values, width)
        if estimate <= plain_size and len(tokens := _encode_tokens(values, mantissa)) <= plain_size:
            return tokens
    if rice_size < fixed_size:
        return _encode_rice(values, low_bits)
    return bytes([FIXED, width]) + pack_planes(values, width)


def decode(data: Bytes, count: int, limit: int) -> Unsigned:
    """Inverse of `encode`.

    Args:
        data: all bytes of one coded sequence.
        count: how many integers it holds.
        limit: all of them are below this.

    Raises:
        CodecError: `encode` does not write this.
    """
    if count == 0:
        if len(data):
            raise CodecError(f"{len(data)} bytes for no integers")
        return np.zeros(0, np.uint32)
    if len(data) < 2:
        raise CodecError("integers without a method")
    method, parameter, body = data[0], data[1], data[2:]
    if parameter > MAX_BITS:
        raise CodecError(f"integers of {parameter} bits")
    if method == FIXED:
        values = unpack_planes(body, count, parameter)
    elif method == RICE:
        values = _decode_rice(body, count, parameter)
    elif method in (TOKENS, DEFLATED) and parameter <= MAX_MANTISSA:
        values = _decode_tokens(body, count, parameter, rans.decode if method == TOKENS else _inflate)
    else:
        raise CodecError(f"unknown integer code {method}, {parameter}")
    if int(values.max()) >= limit:
        raise CodecError(f"integer {int(values.max())} is not below {limit}")
    return values


# ---- Rice ----


def _rice_parameter(values: Unsigned) -> tuple[int, int]:
    """The number of low bits that makes the code smallest, and its size in bytes."""
    guess = int(values.mean()).bit_length()
    sizes = {}
    for low_bits in range(max(guess - 2, 0), guess + 2):
        unary = values.size + int((values >> np.uint32(low_bits)).sum(dtype=np.int64))
        if unary <= _longest_unary(values.size):
            sizes[low_bits] = 2 + packed_size(low_bits * values.size) + packed_size(unary)
    best = min(sizes, key=sizes.__getitem__)
    return best, sizes[best]


def _longest_unary(count: int) -> int:
    """Bits: a bound for the reader's memory that no good choice of the parameter meets."""
    return 4 * count + 64


def _encode_rice(values: Unsigned, low_bits: int) -> bytes:
    quotients = (values >> np.uint32(low_bits)).astype(np.int64)
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.bool_)
    unary[ends] = True
    return bytes([RICE, low_bits]) + pack_planes(values, low_bits) + pack_flags(unary)


def _decode_rice(data: Bytes, count: int, low_bits: int) -> Unsigned:
    unary_at = packed_size(low_bits * count)
    unary = data[unary_at:]
    if not 0 < len(unary) <= packed_size(_longest_unary(count)):
        raise CodecError(f"{len(data)} bytes of Rice codes for {count} integers")
    values = unpack_planes(data[:unary_at], count, low_bits)
    ends = np.flatnonzero(unpack_flags(unary, 8 * len(unary)))
    if ends.size != count or packed_size(int(ends[-1]) + 1) != len(unary):
        raise CodecError(f"{ends.size} Rice codes, expected {count}")
    quotients = np.diff(ends, prepend=-1) - 1
    return values + (quotients << low_bits).astype(np.uint32)


# ---- tokens ----


def _tokens(values: Unsigned, mantissa: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The token of each value, and how many of its low bits the token leaves out."""
    tokens, left_out = np.empty(values.size, np.uint8), np.empty(values.size, np.uint8)
    for start in range(0, values.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        tokens[part], left_out[part] = _tokens_of_chunk(values[part], mantissa)
    return tokens, left_out


def _tokens_of_chunk(
    values: Unsigned, mantissa: int | npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    exponents = (np.maximum(values, 1).astype(np.float64).view(np.uint64) >> np.uint64(52)).astype(np.int32)
    left_out = np.maximum(exponents - 1023 - mantissa, 0)
    # A value in [2**e, 2**(e+1)) shifted by e - m lies in [2**m, 2**(m+1)); plus (e - m) * 2**m it is unique.
    tokens = (values >> left_out.astype(np.uint32)).astype(np.int32) + (left_out << mantissa)
    return tokens, left_out


def _encode_tokens(values: Unsigned, mantissa: int) -> bytes:
    tokens, left_out = _tokens(values, mantissa)
    method, coded = _code_tokens(tokens)
    return bytes([method, mantissa]) + coded + pack_ragged(values, left_out)


def _code_tokens(tokens: rans.Symbols) -> tuple[int, bytes]:
    if rans.is_slow(tokens.size):
        deflated = _deflate(tokens)
        if len(deflated) <= _NEARLY * rans.estimated_size(rans.histogram(tokens)):
            return DEFLATED, deflated
    return TOKENS, rans.encode(tokens)


def _deflate(tokens: rans.Symbols) -> bytes:
    huffman = zlib.compressobj(method=zlib.DEFLATED, wbits=-15, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return huffman.compress(tokens.tobytes()) + huffman.flush()


def _inflate(data: Bytes, count: int) -> tuple[rans.Symbols, int]:
    """So many tokens, and how many bytes held them."""
    stream = zlib.decompressobj(wbits=-15)
    try:
        tokens = stream.decompress(data, count + 1)  # one more, to notice
    except zlib.error as exc:
        raise CodecError(f"damaged tokens: {exc}") from exc
    if len(tokens) != count or not stream.eof:
        raise CodecError(f"tokens that are not {count}")
    return np.frombuffer(tokens, np.uint8), len(data) - len(stream.unused_data)


def _mantissa_bits(values: Unsigned, width: int) -> tuple[int, float]:
    """The number that makes the code smallest, and about how many bytes that has.

    Of all values at once, each number for the few that differ.
    """
    sample = values[:: max(values.size // _SAMPLE, 1)]
    weight = values.size / sample.size
    most = min(MAX_MANTISSA, width)  # with more, too, each value is its own token
    usable = np.array([m for m in range(most + 1) if (max(width - 1 - m, 0) + 2) << m <= 256], np.int32)
    kinds, counts = _kinds(sample, width)
    tokens, left_out = _tokens_of_chunk(kinds, usable[:, np.newaxis])
    alphabets = tokens.max(axis=1) + 1
    columns = int(alphabets.max())
    rows = columns * np.arange(usable.size)[:, np.newaxis]
    often = np.broadcast_to(counts, tokens.shape).ravel()
    tables = np.bincount((tokens + rows).ravel(), often, columns * usable.size).reshape(-1, columns)
    body = rans.estimated_sizes(tables.astype(np.int64)) + (left_out * counts).sum(axis=1) / 8
    fixed = alphabets * rans.CODE_BITS / 8
    sizes = fixed + (body - fixed) * weight
    best = int(np.argmin(sizes))
    return int(usable[best]), 2 + float(sizes[best])


def _kinds(values: Unsigned, width: int) -> tuple[Unsigned, npt.NDArray[np.int64]]:
    """The smallest value of each finest token, and how often the token occurs."""
    if width <= MAX_MANTISSA + 1:  # each is its own
        counts = np.bincount(values)
        used = np.flatnonzero(counts)
        return used.astype(np.uint32), counts[used]
    counts = np.zeros((MAX_BITS + 1) << MAX_MANTISSA, np.int64)
    for start in range(0, values.size, _CHUNK):
        tokens, _ = _tokens_of_chunk(values[start : start + _CHUNK], MAX_MANTISSA)
        counts += np.bincount(tokens, minlength=counts.size)
    used = np.flatnonzero(counts)
    left_out = np.maximum((used >> MAX_MANTISSA) - 1, 0)
    return ((used - (left_out << MAX_MANTISSA)) << left_out).astype(np.uint32), counts[used]


def _decode_tokens(data: Bytes, count: int, mantissa: int, decode_bytes: Decoder) -> Unsigned:
    tokens, used = decode_bytes(data, count)
    left_out = tokens >> np.uint8(mantissa)
    left_out -= left_out > 0
    if int(left_out.max()) + mantissa >= MAX_BITS:
        raise CodecError("token of an integer that is too large")
    heads = (tokens - (left_out << np.uint8(mantissa))).astype(np.uint32)
    heads <<= left_out
    heads |= unpack_ragged(data[used:], left_out)
    return heads
