"""An update as bytes, and back. The format is described byte by byte in docs/update-codec.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compression.spec import TensorSpec, Weights
from compression.updates.compressed import LARGEST, read_compressed, write_compressed
from compression.updates.errors import CodecError
from compression.updates.floats import read_exact, write_exact
from compression.updates.header import Header, model_id
from compression.updates.layout import PRUNED, Layout, check_against, split
from compression.updates.profile import EXACT_BITS, CodecProfile
from compression.updates.sections import Reader, Writer
from compression.updates.stages import Floats

MAGIC = b"BRUP"
EXACT, COMPRESSED, COMPONENTS = 0, 1, 2
SPARE_BYTES = 1 << 16  # a payload may be longer than the float32 values by this much


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
    header = Header(
        model_id(model_digest), round_number, sum(a.size for a in delta.values()), 0, EXACT_BITS, 23, 23, 0
    )
    if not 0 <= round_number < 1 << 32:
        raise CodecError(f"round number {round_number} does not fit 32 bits")
    _check_delta(delta, tensors, None if profile.exact else LARGEST)
    if profile.exact:
        return _encode_exact(delta, header)
    if profile.rounding == "stochastic" and rng is None:
        raise CodecError(f"profile {profile.name} rounds stochastically: pass rng")
    statistics = {tensor.name for tensor in tensors or () if tensor.role == "statistic"}
    writer = Writer(MAGIC, COMPONENTS if profile.times else COMPRESSED)
    sent = write_compressed(delta, statistics, profile.at_round(round_number), header, rng, writer)
    return Encoded(writer.finish(), sent)


def decode_update(payload: bytes, tensors: Sequence[TensorSpec], *, model_digest: str) -> Decoded:
    """Reconstruct an update; memory is bounded by what `tensors` declare.

    Raises:
        CodecError: anything but what `encode_update` writes for this model.
    """
    parameters = sum(tensor.size for tensor in tensors)
    reader = Reader(payload, MAGIC, 4 * parameters + SPARE_BYTES + 16 * len(tensors))
    header = Header.read(reader)
    if header.model != model_id(model_digest):
        raise CodecError(f"payload is for model {header.model.hex()}..., not {model_digest[:16]}...")
    if header.parameters != parameters:
        raise CodecError(f"payload has {header.parameters} parameters, the model {parameters}")
    if reader.kind == EXACT:
        delta = _decode_exact(reader, header, tensors)
    elif reader.kind in (COMPRESSED, COMPONENTS):
        delta = read_compressed(reader, header, tensors, components=reader.kind == COMPONENTS)
    else:
        raise CodecError(f"unknown kind of update {reader.kind}")
    reader.end()
    return Decoded(header.round_number, header.bits, header.kept, delta)


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


def _encode_exact(delta: Weights, header: Header) -> Encoded:
    writer = Writer(MAGIC, EXACT)
    writer.fields(header.pack())
    write_exact(_joined(delta), writer)
    return Encoded(writer.finish(), {name: np.array(array) for name, array in delta.items()})


def _joined(delta: Weights) -> Floats:
    return np.concatenate([array.ravel() for array in delta.values()]) if delta else np.zeros(0, np.float32)


def _decode_exact(reader: Reader, header: Header, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    expected = (0, EXACT_BITS, 23, 23, 0)
    if (header.kept, header.bits, header.whole_mantissa, header.statistic_mantissa, header.block) != expected:
        raise CodecError("an exact update with settings of a compressed one")
    return split_all(read_exact(reader, header.parameters), tensors)


def split_all(values: Floats, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    """Cut one array into tensors."""
    layout = Layout(tuple(t.name for t in tensors), tuple(t.shape for t in tensors), (PRUNED,) * len(tensors))
    return split({PRUNED: values}, layout)
