"""Entropy coding of bytes: interleaved rANS in NumPy.

Asymmetric numeral systems (Duda, 2013) in their range variant, with many states side by side (Giesen,
"Interleaved entropy coders", 2014): symbol i belongs to state ``i % lanes``, so that one NumPy operation
advances all states by one symbol and no Python loop runs over symbols. No library for this has wheels
for 64-bit and 32-bit Arm: pip finds neither for `constriction`, none on armv7 for `zstandard`.

States are 32 bits, leave by 16-bit words, and divide a range of 4096. The table of frequencies is
coarse (two steps an octave, 5 bits a symbol): updates of small models have a few hundred symbols, where
an exact table costs more than it saves; the coarse one loses about 0.01 bits a symbol.

Stream, little-endian::

    1       alphabet size A, less 1
    ...     A codes of 5 bits, bit planes (`bits.pack_planes`); 0 is a symbol that does not occur
    4 each  final states of the lanes
    2 each  words, in the order in which the decoder takes them

With a single symbol in the alphabet the stream ends after the table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compression.updates.bits import Bytes, pack_planes, packed_size, unpack_planes
from compression.updates.errors import CodecError

Symbols = npt.NDArray[np.uint8]

RANGE_BITS = 12
RANGE = 1 << RANGE_BITS
LOWEST_STATE = 1 << 16
SYMBOLS_PER_LANE = 1024  # a lane costs about 2 bytes, so 0.016 bits a symbol
MAX_LANES = 8192  # 32 KiB of states: still within a Pi's first-level cache
FEW_LANES = 24  # up to so many, NumPy for every row costs more than Python's own numbers for every symbol
CODE_BITS = 5
HIGHEST_CODE = (1 << CODE_BITS) - 1
_COUNT_CHUNK = 1 << 18  # bincount widens its input to 8 bytes each


def histogram(symbols: Symbols) -> npt.NDArray[np.int64]:
    """How often each of the 256 bytes occurs."""
    counts = np.zeros(256, np.int64)
    for start in range(0, symbols.size, _COUNT_CHUNK):
        counts += np.bincount(symbols[start : start + _COUNT_CHUNK], minlength=256)
    return counts


def is_slow(count: int) -> bool:
    """Whether so many symbols are coded one by one, and are enough for that to be felt."""
    return SYMBOLS_PER_LANE <= count < (FEW_LANES + 1) * SYMBOLS_PER_LANE


def estimated_size(counts: npt.NDArray[np.int64]) -> float:
    """About how many bytes `encode` makes of symbols that occur so often."""
    return float(estimated_sizes(counts[np.newaxis])[0])


def estimated_sizes(tables: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`estimated_size` of each row."""
    totals, used = tables.sum(axis=1), tables > 0
    rates = np.zeros(tables.shape)
    np.divide(totals[:, np.newaxis], tables, out=rates, where=used)
    np.log2(rates, out=rates, where=used)
    bits = (tables * rates).sum(axis=1) + 0.01 * totals
    alphabet = tables.shape[1] - used[:, ::-1].argmax(axis=1)
    header = 1 + (CODE_BITS * alphabet + 7) // 8
    lanes = np.clip(totals // SYMBOLS_PER_LANE, 1, MAX_LANES)
    sizes = header + np.where(used.sum(axis=1) == 1, 0.0, bits / 8 + 2 * lanes)
    return np.where(totals == 0, 0.0, sizes)


def encode(symbols: Symbols) -> bytes:
    """Code at least one symbol."""
    codes = _codes(histogram(symbols))
    table = bytes([codes.size - 1]) + pack_planes(codes, CODE_BITS)
    frequency, start = _frequencies(codes)
    if np.count_nonzero(frequency) == 1:
        return table
    lanes = _lanes(symbols.size)
    encode_rows = _encode_few if lanes <= FEW_LANES else _encode_rows
    state, words = encode_rows(symbols, lanes, frequency, start)
    return table + state.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _encode_few(
    symbols: Symbols,
    lanes: int,
    frequency: npt.NDArray[np.uint32],
    start: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """As `_encode_rows`, lane by lane and symbol by symbol."""
    shares, starts, text = frequency.tolist(), start.tolist(), symbols.tolist()
    full = [share << (32 - RANGE_BITS) for share in shares]
    states, words = [], [-1] * len(text)  # the word that leaves before each symbol, if one does
    for lane in range(lanes):
        x = LOWEST_STATE
        for place in range(lane + (len(text) - 1 - lane) // lanes * lanes, -1, -lanes):
            symbol = text[place]
            if x >= full[symbol]:
                words[place] = x & 0xFFFF
                x >>= 16
            share = shares[symbol]
            x += x // share * (RANGE - share) + starts[symbol]  # as quotient * RANGE + rest + start
        states.append(x)
    return np.array(states, np.uint32), np.array([word for word in words if word >= 0], np.uint16)


def _encode_rows(
    symbols: Symbols,
    lanes: int,
    frequency: npt.NDArray[np.uint32],
    start: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """Final states, and words in the order of reading."""
    state = np.full(lanes, LOWEST_STATE, np.uint32)
    words: list[npt.NDArray[np.uint16]] = []
    for first in reversed(range(0, symbols.size, lanes)):
        row = symbols[first : first + lanes]
        x, f = state[: row.size], frequency[row]
        (full,) = (x >= f << np.uint32(32 - RANGE_BITS)).nonzero()
        moved = x[full]
        words.append(moved.astype(np.uint16))
        x[full] = moved >> np.uint32(16)
        quotient = x // f
        x += quotient * (np.uint32(RANGE) - f) + start[row]  # = quotient * RANGE + x % f + start
    words.reverse()
    return state, np.concatenate(words)


def decode(data: Bytes, count: int) -> tuple[Symbols, int]:
    """The `count` symbols at the start of `data`, and how many bytes they took.

    Raises:
        CodecError: `encode` does not write this.
    """
    table_end = 1 + packed_size(CODE_BITS * (data[0] + 1)) if len(data) else 1
    if len(data) < table_end:
        raise CodecError("entropy-coded stream ends within its table")
    codes = unpack_planes(data[1:table_end], data[0] + 1, CODE_BITS)
    frequency, start = _frequencies(codes)
    present = np.flatnonzero(frequency)
    if present.size == 0 or not codes[-1]:
        raise CodecError("entropy coder's table is empty or ends in nothing")
    if present.size == 1:
        return np.full(count, present[0], np.uint8), table_end
    lanes = _lanes(count)
    words_at = table_end + 4 * lanes
    if len(data) < words_at:
        raise CodecError("entropy-coded stream ends within its states")
    state = np.frombuffer(data[table_end:words_at], "<u4").astype(np.uint32)
    words = np.frombuffer(data[words_at : len(data) - (len(data) - words_at) % 2], "<u2")
    decode_rows = _decode_few if lanes <= FEW_LANES else _decode_rows
    symbols, used = decode_rows(state, words, count, frequency, start)
    return symbols, words_at + 2 * used


def _decode_few(
    state: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint16],
    count: int,
    frequency: npt.NDArray[np.uint32],
    start: npt.NDArray[np.uint32],
) -> tuple[Symbols, int]:
    """As `_decode_rows`, symbol by symbol."""
    at = np.repeat(np.arange(frequency.size), frequency.astype(np.intp)).tolist()
    shares, starts = frequency.tolist(), start.tolist()
    states, left = state.tolist(), words.tolist()
    lanes, symbols = len(states), bytearray(count)
    used, lane = 0, 0
    try:
        for place in range(count):
            x = states[lane]
            slot = x & (RANGE - 1)
            symbols[place] = symbol = at[slot]
            x = shares[symbol] * (x >> RANGE_BITS) + slot - starts[symbol]
            if x < LOWEST_STATE:
                x = (x << 16) | left[used]
                used += 1
            states[lane] = x
            lane = lane + 1 if lane + 1 < lanes else 0
    except IndexError as exc:
        raise CodecError("entropy-coded stream ends within its words") from exc
    if any(x != LOWEST_STATE for x in states):
        raise CodecError("entropy-coded stream does not end in the state it began with")
    return np.frombuffer(symbols, np.uint8), used


def _decode_rows(
    state: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint16],
    count: int,
    frequency: npt.NDArray[np.uint32],
    start: npt.NDArray[np.uint32],
) -> tuple[Symbols, int]:
    symbol_at = np.repeat(np.arange(frequency.size, dtype=np.uint8), frequency.astype(np.intp))
    frequency_at = frequency[symbol_at]
    offset_at = np.arange(RANGE, dtype=np.uint32) - start[symbol_at]
    symbols = np.empty(count, np.uint8)
    lanes, used = state.size, 0
    for first in range(0, count, lanes):
        row = symbols[first : first + lanes]
        x = state[: row.size]
        slot = (x & np.uint32(RANGE - 1)).astype(np.intp)  # 32-bit machines take by nothing else
        symbol_at.take(slot, out=row)
        x >>= np.uint32(RANGE_BITS)
        x *= frequency_at[slot]
        x += offset_at[slot]
        (short,) = (x < LOWEST_STATE).nonzero()  # flatnonzero takes four times as long on few elements
        if used + short.size > words.size:
            raise CodecError("entropy-coded stream ends within its words")
        x[short] = (x[short] << np.uint32(16)) | words[used : used + short.size]
        used += short.size
    if (state != LOWEST_STATE).any():
        raise CodecError("entropy-coded stream does not end in the state it began with")
    return symbols, used


def _lanes(count: int) -> int:
    return min(max(count // SYMBOLS_PER_LANE, 1), MAX_LANES)


def _codes(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The code nearest to each count, the most frequent symbol at the top of the scale."""
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    octaves = np.log2(np.maximum(counts, 1) / counts.max())
    lower = np.floor(octaves)  # weights of one octave are 2 and 3: the step lies at 2.5, the next at 3.5
    part = np.exp2(octaves - lower)
    steps = 2 * lower + (part >= 1.25) + (part >= 1.75)
    codes = np.where(counts > 0, np.clip(HIGHEST_CODE + steps, 1, HIGHEST_CODE), 0)
    return codes.astype(np.uint32)


def _frequencies(
    codes: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Shares of the range and where they start; integers only, so every machine has the same."""
    steps = np.maximum(codes, 1).astype(np.int64) - 1
    weights = np.where(codes > 0, (2 + steps % 2) << (steps // 2), 0)
    present = int(np.count_nonzero(weights))
    if present == 0:
        return np.zeros(codes.size, np.uint32), np.zeros(codes.size, np.uint32)
    shares = weights * (RANGE - present) // int(weights.sum()) + (codes > 0)
    shares[int(shares.argmax())] += RANGE - int(shares.sum())
    starts = np.cumsum(shares) - shares
    return shares.astype(np.uint32), starts.astype(np.uint32)
