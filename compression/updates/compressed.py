"""The body of a lossy update: components and stages for what is pruned, short floats for the rest."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from compression.spec import TensorSpec, Weights
from compression.updates import integers
from compression.updates.bits import pack_flags, unpack_flags
from compression.updates.budget import Spent, spend
from compression.updates.components import add_components, decode_components, matrices_of
from compression.updates.errors import CodecError
from compression.updates.floats import read_short, shorten, write_short
from compression.updates.header import Header
from compression.updates.layout import (
    PRUNED,
    STATISTIC,
    WHOLE,
    Layout,
    decode_layout,
    join,
    plan_layout,
    split,
)
from compression.updates.profile import CodecProfile
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

SHORT_BITS = 4  # what a value of a tensor that is sent whole takes beside its mantissa, about
LARGEST = np.float32(2.0**100)  # of a value that is quantised: sums and products of such values are finite


def write_compressed(
    delta: Weights,
    statistics: Collection[str],
    profile: CodecProfile,
    header: Header,
    rng: np.random.Generator | None,
    writer: Writer,
) -> dict[str, Floats]:
    """Header fields, nine sections and those of components; return what their reader will reconstruct."""
    layout = plan_layout(delta, statistics, profile.whole_share)
    pruned = join(delta, layout, PRUNED)
    spent = _spent(pruned, layout, header.parameters, profile)
    positions = _choose(pruned, layout, profile.scope, spent.density if spent else profile.density)
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
    measured = shorten(join(delta, layout, STATISTIC), profile.statistic_mantissa, towards_zero=True)
    writer.fields(header.pack())
    writer.section(layout.encode())
    write_short(whole, profile.whole_mantissa, writer)
    write_short(measured, profile.statistic_mantissa, writer)
    writer.section(encode_positions(positions, size))
    _write_quantised(quantised, header, writer)
    kept = _scatter(quantised, positions, size)
    if spent:
        for coded in spent.coded:
            writer.section(coded)
        add_components(kept, matrices_of(layout.shapes_of(PRUNED)), spent.components)
    return split({PRUNED: kept, WHOLE: whole, STATISTIC: measured}, layout)


def _spent(pruned: Floats, layout: Layout, parameters: int, profile: CodecProfile) -> Spent | None:
    """What a profile's number of bytes goes to; None without one."""
    if not profile.times:
        return None
    beside = sum(layout.sizes(WHOLE)) * (profile.whole_mantissa + SHORT_BITS)
    beside += sum(layout.sizes(STATISTIC)) * (profile.statistic_mantissa + SHORT_BITS)
    return spend(pruned, matrices_of(layout.shapes_of(PRUNED)), parameters, beside, profile)


def _choose(pruned: Floats, layout: Layout, scope: str, density: float) -> Positions:
    if scope == "model":
        return keep_largest(pruned, max(math.ceil(density * pruned.size), 1))
    chosen, start = [np.zeros(0, np.int32)], 0
    for size in layout.sizes(PRUNED):
        kept = keep_largest(pruned[start : start + size], max(math.ceil(density * size), 1))
        chosen.append(kept + np.int32(start))
        start += size
    return np.concatenate(chosen)


def _levels(bits: int) -> int:
    return 1 << (bits - 1)


def _scatter(quantised: Quantised, positions: Positions, size: int) -> Floats:
    if positions.size == size:
        return quantised.values()
    values = np.zeros(size, np.float32)
    values[positions] = quantised.values()
    return values


def _write_quantised(quantised: Quantised, header: Header, writer: Writer) -> None:
    scales = [quantised.low] if header.bits == 1 else [quantised.low, quantised.step]
    writer.section(b"".join(scale.astype("<f4").tobytes() for scale in scales))
    writer.section(pack_flags(quantised.negative))
    writer.section(b"" if header.bits == 1 else integers.encode(quantised.levels.astype(np.uint32)))


def read_compressed(
    reader: Reader, header: Header, tensors: Sequence[TensorSpec], *, components: bool
) -> dict[str, Floats]:
    """Inverse of `write_compressed`; raise `CodecError` for anything else."""
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
    if components:
        matrices = matrices_of(layout.shapes_of(PRUNED))
        add_components(pruned, matrices, decode_components(reader, matrices, LARGEST))
    return split({PRUNED: pruned, WHOLE: whole, STATISTIC: statistics}, layout)


def _read_quantised(reader: Reader, header: Header) -> Quantised:
    low, step = _read_scales(reader.section(), -(-header.kept // header.block), header.bits)
    negative = unpack_flags(reader.section(), header.kept)
    coded = reader.section()
    if header.bits > 1:
        levels = integers.decode(coded, header.kept, _levels(header.bits)).astype(np.uint8)
    elif len(coded):
        raise CodecError("levels where there is only one")
    else:
        levels = np.zeros(header.kept, np.uint8)
    return Quantised(negative, levels, low, step, header.block)


def _read_scales(data: memoryview, blocks: int, bits: int) -> tuple[Floats, Floats]:
    rows = 1 if bits == 1 else 2
    if len(data) != 4 * rows * blocks:
        raise CodecError(f"{len(data)} bytes of scales for {blocks} blocks")
    scales = np.frombuffer(data, "<f4").astype(np.float32).reshape(rows, blocks)
    if not ((scales >= 0) & (scales <= LARGEST)).all():  # NaN compares false
        raise CodecError("a scale is negative, not finite or too large")
    return scales[0], scales[1] if rows == 2 else np.zeros(blocks, np.float32)
