"""An update as bytes, and back. The format is described byte by byte in docs/update-codec.md."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression.spec import TensorSpec, Weights
from compression.updates import integers
from compression.updates.bits import pack_flags, unpack_flags
from compression.updates.errors import CodecError
from compression.updates.floats import read_exact, read_short, shorten, write_exact, write_short
from compression.updates.layout import (
    PRUNED,
    STATISTIC,
    WHOLE,
    Layout,
    check_against,
    decode_layout,
    join,
    plan_layout,
    split,
)
from compression.updates.profile import EXACT_BITS, CodecProfile
from compression.updates.sections import Reader, Writer
from compression.updates.stages import (
    Floats,
    Positions,
    Quantised,
    decode_positions,
    encode_positions,
    keep_largest,
    quantise,
)

MAGIC = b"BRUP"
EXACT, COMPRESSED = 0, 1
LARGEST = np.float32(2.0**100)  # of a value that is quantised: sums and products of such values are finite
SPARE_BYTES = 1 << 16  # a payload may be longer than the float32 values by this much

_HEADER = struct.Struct("<8sIIIBBBH")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and what its receiver will reconstruct from it, bit for bit."""

    payload: bytes
    sent: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a payload says.

    Attributes:
        round_number: the round it was coded for.
        bits: of a kept value; 32 if nothing was lost.
        kept: how many values of the pruned tensors were sent.
        delta: all tensors, in the order of the model's spec.
    """

    round_number: int
    bits: int
    kept: int
    delta: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class _Header:
    model: bytes
    round_number: int
    parameters: int
    kept: int
    bits: int
    whole_mantissa: int
    statistic_mantissa: int
    block: int

    def pack(self) -> bytes:
        return _HEADER.pack(
            self.model,
            self.round_number,
            self.parameters,
            self.kept,
            self.bits,
            self.whole_mantissa,
            self.statistic_mantissa,
            self.block,
        )


def encode_update(
    delta: Weights,
    profile: CodecProfile,
    *,
    model_digest: str,
    round_number: int,
    tensors: Sequence[TensorSpec] | None = None,
    rng: np.random.Generator | None = None,
) -> Encoded:
    """Compress an update.

    Args:
        delta: local minus global, float32, in the order of the model's spec.
        profile: how hard.
        model_digest: SHA-256 of the model's bundle, hexadecimal; the receiver must name the same one.
        round_number: which the payload carries, and which a warm-up goes by.
        tensors: the spec's, for their roles; without them no tensor counts as a statistic.
        rng: for stochastic rounding.

    Raises:
        CodecError: a value that is not finite or too large, a wrong digest, tensors that do not fit.
    """
    header = _Header(
        _model_id(model_digest), round_number, sum(a.size for a in delta.values()), 0, EXACT_BITS, 23, 23, 0
    )
    if not 0 <= round_number < 1 << 32:
        raise CodecError(f"round number {round_number} does not fit 32 bits")
    _check_delta(delta, tensors, None if profile.exact else LARGEST)
    if profile.exact:
        return _encode_exact(delta, header)
    if profile.rounding == "stochastic" and rng is None:
        raise CodecError(f"profile {profile.name} rounds stochastically: pass rng")
    statistics = {tensor.name for tensor in tensors or () if tensor.role == "statistic"}
    layout = plan_layout(delta, statistics, profile.whole_share)
    return _encode_compressed(delta, layout, profile.at_round(round_number), header, rng)


def decode_update(payload: bytes, tensors: Sequence[TensorSpec], *, model_digest: str) -> Decoded:
    """Reconstruct an update; memory is bounded by what `tensors` declare.

    Raises:
        CodecError: anything but what `encode_update` writes for this model.
    """
    parameters = sum(tensor.size for tensor in tensors)
    reader = Reader(payload, MAGIC, 4 * parameters + SPARE_BYTES + 16 * len(tensors))
    header = _Header(*_HEADER.unpack(reader.fields(_HEADER.size)))
    if header.model != _model_id(model_digest):
        raise CodecError(f"payload is for model {header.model.hex()}..., not {model_digest[:16]}...")
    if header.parameters != parameters:
        raise CodecError(f"payload has {header.parameters} parameters, the model {parameters}")
    if reader.kind == EXACT:
        delta = _decode_exact(reader, header, tensors)
    elif reader.kind == COMPRESSED:
        delta = _decode_compressed(reader, header, tensors)
    else:
        raise CodecError(f"unknown kind of update {reader.kind}")
    reader.end()
    return Decoded(header.round_number, header.bits, header.kept, delta)


def _model_id(model_digest: str) -> bytes:
    """The first 8 bytes: enough against mix-ups; against forgery the message around it is signed."""
    try:
        digest = bytes.fromhex(model_digest)
    except ValueError as exc:
        raise CodecError(f"model digest {model_digest[:80]!r} is not hexadecimal") from exc
    if len(digest) != 32:
        raise CodecError(f"model digest has {len(digest)} bytes, SHA-256 has 32")
    return digest[:8]


def _check_delta(delta: Weights, tensors: Sequence[TensorSpec] | None, largest: np.float32 | None) -> None:
    if tensors is not None:
        check_against(delta, tensors)
    for name, array in delta.items():
        if array.dtype != np.float32:
            raise CodecError(f"{name} is {array.dtype}, expected float32")
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CodecError(f"{name} holds a value that is not finite")
        if largest is not None and max(-low, high) > largest:
            raise CodecError(f"{name} holds {max(-low, high)}: training has diverged")


# ---- exact ----


def _encode_exact(delta: Weights, header: _Header) -> Encoded:
    writer = Writer(MAGIC, EXACT)
    writer.fields(header.pack())
    sent = {name: np.array(array) for name, array in delta.items()}
    write_exact(_joined(delta), writer)
    return Encoded(writer.finish(), sent)


def _joined(delta: Weights) -> Floats:
    return np.concatenate([array.ravel() for array in delta.values()]) if delta else np.zeros(0, np.float32)


def _decode_exact(reader: Reader, header: _Header, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    expected = (0, EXACT_BITS, 23, 23, 0)
    if (header.kept, header.bits, header.whole_mantissa, header.statistic_mantissa, header.block) != expected:
        raise CodecError("an exact update with settings of a compressed one")
    return split_all(read_exact(reader, header.parameters), tensors)


def split_all(values: Floats, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    """Cut one array into tensors."""
    layout = Layout(tuple(t.name for t in tensors), tuple(t.shape for t in tensors), (PRUNED,) * len(tensors))
    return split({PRUNED: values}, layout)


# ---- compressed ----


def _encode_compressed(
    delta: Weights, layout: Layout, profile: CodecProfile, header: _Header, rng: np.random.Generator | None
) -> Encoded:
    pruned = join(delta, layout, PRUNED)
    positions = _choose(pruned, layout, profile)
    values, size = pruned[positions], pruned.size
    del pruned  # as large as the update, and not needed any more
    header = replace(
        header,
        kept=positions.size,
        bits=profile.bits,
        block=profile.block,
        whole_mantissa=profile.whole_mantissa,
        statistic_mantissa=profile.statistic_mantissa,
    )
    stochastic = rng if profile.rounding == "stochastic" else None
    quantised = quantise(values, _levels(profile.bits), profile.block, stochastic)
    whole = shorten(join(delta, layout, WHOLE), profile.whole_mantissa, towards_zero=False)
    statistics = shorten(join(delta, layout, STATISTIC), profile.statistic_mantissa, towards_zero=True)
    writer = Writer(MAGIC, COMPRESSED)
    writer.fields(header.pack())
    writer.section(layout.encode())
    write_short(whole, profile.whole_mantissa, writer)
    write_short(statistics, profile.statistic_mantissa, writer)
    writer.section(encode_positions(positions, size))
    _write_quantised(quantised, header, writer)
    reconstructed = {PRUNED: _scatter(quantised, positions, size), WHOLE: whole, STATISTIC: statistics}
    return Encoded(writer.finish(), split(reconstructed, layout))


def _choose(pruned: Floats, layout: Layout, profile: CodecProfile) -> Positions:
    if profile.scope == "model":
        return keep_largest(pruned, math.ceil(profile.density * pruned.size))
    chosen, start = [np.zeros(0, np.int64)], 0
    for size in layout.sizes(PRUNED):
        chosen.append(start + keep_largest(pruned[start : start + size], math.ceil(profile.density * size)))
        start += size
    return np.concatenate(chosen)


def _levels(bits: int) -> int:
    return 1 << (bits - 1)


def _scatter(quantised: Quantised, positions: Positions, size: int) -> Floats:
    values = np.zeros(size, np.float32)
    values[positions] = quantised.values()
    return values


def _write_quantised(quantised: Quantised, header: _Header, writer: Writer) -> None:
    scales = [quantised.low] if header.bits == 1 else [quantised.low, quantised.step]
    writer.section(b"".join(scale.astype("<f4").tobytes() for scale in scales))
    writer.section(pack_flags(quantised.negative))
    writer.section(b"" if header.bits == 1 else integers.encode(quantised.levels))


def _decode_compressed(reader: Reader, header: _Header, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    if not (
        1 <= header.bits <= 8 and max(header.whole_mantissa, header.statistic_mantissa) <= 23 and header.block
    ):
        raise CodecError(f"unknown settings: {header.bits} bits, blocks of {header.block}")
    layout = decode_layout(reader.section(), tensors)
    whole = read_short(reader, sum(layout.sizes(WHOLE)), header.whole_mantissa)
    statistics = read_short(reader, sum(layout.sizes(STATISTIC)), header.statistic_mantissa)
    size = sum(layout.sizes(PRUNED))
    if header.kept > size:
        raise CodecError(f"{header.kept} values kept of {size}")
    positions = decode_positions(reader.section(), header.kept, size)
    pruned = _scatter(_read_quantised(reader, header), positions, size)
    return split({PRUNED: pruned, WHOLE: whole, STATISTIC: statistics}, layout)


def _read_quantised(reader: Reader, header: _Header) -> Quantised:
    low, step = _read_scales(reader.section(), -(-header.kept // header.block), header.bits)
    negative = unpack_flags(reader.section(), header.kept)
    coded = reader.section()
    if header.bits > 1:
        levels = integers.decode(coded, header.kept, _levels(header.bits))
    elif len(coded):
        raise CodecError("levels where there is only one")
    else:
        levels = np.zeros(header.kept, np.uint32)
    return Quantised(negative, levels, low, step, header.block)


def _read_scales(data: memoryview, blocks: int, bits: int) -> tuple[Floats, Floats]:
    rows = 1 if bits == 1 else 2
    if len(data) != 4 * rows * blocks:
        raise CodecError(f"{len(data)} bytes of scales for {blocks} blocks")
    scales = np.frombuffer(data, "<f4").astype(np.float32).reshape(rows, blocks)
    if not ((scales >= 0) & (scales <= LARGEST)).all():  # NaN compares false
        raise CodecError("a scale is negative, not finite or too large")
    return scales[0], scales[1] if rows == 2 else np.zeros(blocks, np.float32)
