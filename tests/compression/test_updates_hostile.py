"""Bytes that the codec did not write: one error type, and no more memory than the model declares."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.spec import TensorSpec
from compression.updates import (
    PROFILES,
    CodecError,
    CodecProfile,
    decode_update,
    encode_update,
    pack_model,
    unpack_model,
)

MODEL = "c3" * 32
TENSORS = (
    TensorSpec("w", (40, 50)),
    TensorSpec("b", (6,)),
    TensorSpec("mean", (6,), "statistic"),
)
FIXED = CodecProfile("fixed", density=0.03, bits=3)
EXTRA = (CodecProfile("one", bits=1), CodecProfile("dense", bits=4), CodecProfile("few", density=0.005))


def _delta() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    return {t.name: rng.standard_t(3, t.shape).astype(np.float32) for t in TENSORS}


PAYLOADS = [
    encode_update(_delta(), profile, model_digest=MODEL, round_number=4, tensors=TENSORS).payload
    for profile in (*PROFILES.values(), *EXTRA)
]
BASE = encode_update(_delta(), FIXED, model_digest=MODEL, round_number=4, tensors=TENSORS).payload
COMPONENTS = encode_update(
    {"w": np.outer(range(40), range(50)).astype(np.float32)}
    | {n: a for n, a in _delta().items() if n != "w"},
    CodecProfile("components", times=20.0, bits=2),
    model_digest=MODEL,
    round_number=4,
    tensors=TENSORS,
).payload
PAYLOADS.append(COMPONENTS)
PACKED = pack_model(_delta())


def sealed(body: bytes) -> bytes:
    """With a checksum that holds, so that what lies behind it is reached."""
    return body + struct.pack("<I", zlib.crc32(body))


def either(decode: Callable[[bytes], object], data: bytes) -> None:
    """A decoder may find the bytes good or raise `CodecError`; anything else fails the test."""
    try:
        decode(data)
    except CodecError:
        return


def decode(payload: bytes) -> object:
    decoded = decode_update(payload, TENSORS, model_digest=MODEL)
    for tensor in TENSORS:
        assert decoded.delta[tensor.name].shape == tensor.shape
        assert np.isfinite(decoded.delta[tensor.name]).all()
    return decoded


def unpack(data: bytes) -> object:
    weights = unpack_model(data, TENSORS)
    assert all(np.isfinite(array).all() for array in weights.values())
    return weights


mutations = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)


def mutated(payload: bytes, changes: list[tuple[float, int]], cut: float, splice: bytes) -> bytes:
    body = bytearray(payload[:-4])
    for at, value in changes:
        body[int(at * len(body))] = value
    where = int(cut * len(body))
    return bytes(body[:where]) + splice + bytes(body[where + len(splice) :])


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(PAYLOADS), mutations, st.floats(0, 1), st.binary(max_size=6))
def test_a_mutated_update_with_a_good_checksum_is_read_or_refused(
    payload: bytes, changes: list[tuple[float, int]], cut: float, splice: bytes
) -> None:
    either(decode, sealed(mutated(payload, changes, cut, splice)))


@settings(max_examples=200, deadline=None)
@given(mutations, st.floats(0, 1), st.binary(max_size=6))
def test_a_mutated_model_with_a_good_checksum_is_read_or_refused(
    changes: list[tuple[float, int]], cut: float, splice: bytes
) -> None:
    either(unpack, sealed(mutated(PACKED, changes, cut, splice)))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    for prefix in (b"", b"BRUP\x01\x00", b"BRUP\x01\x01", b"BRUP\x01\x02", b"BRWT\x01\x00"):
        for decoder in (decode, unpack):
            with pytest.raises(CodecError):
                decoder(sealed(prefix + data))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_truncation_and_every_flipped_bit_is_refused(payload: bytes) -> None:
    step = max(len(payload) // 300, 1)
    for length in range(0, len(payload), step):
        with pytest.raises(CodecError):
            decode(payload[:length])
        if length >= 4:
            either(decode, sealed(payload[:length]))
        damaged = bytearray(payload)
        damaged[length] ^= 1 << (length % 8)
        with pytest.raises(CodecError):
            decode(bytes(damaged))
    with pytest.raises(CodecError):
        decode(sealed(payload[:-4] + b"\x00"))


def test_another_model_round_or_version_is_said() -> None:
    payload = BASE
    with pytest.raises(CodecError, match="for model"):
        decode_update(payload, TENSORS, model_digest="00" * 32)
    with pytest.raises(CodecError, match="parameters"):
        decode_update(payload, TENSORS[:2], model_digest=MODEL)
    with pytest.raises(CodecError, match="version 2"):
        decode(sealed(payload[:4] + b"\x02" + payload[5:-4]))
    with pytest.raises(CodecError, match="kind"):
        decode(sealed(payload[:5] + b"\x07" + payload[6:-4]))
    with pytest.raises(CodecError, match="kind"):
        unpack(sealed(PACKED[:5] + b"\x01" + PACKED[6:-4]))
    with pytest.raises(CodecError, match="BRWT"):
        unpack(payload)
    with pytest.raises(CodecError, match="more than"):
        decode(payload + bytes(1 << 20))


def sections_of(payload: bytes, at: int) -> list[bytes]:
    sections = []
    while at < len(payload) - 4:
        size = shift = 0
        while True:
            byte, at = payload[at], at + 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        sections.append(payload[at : at + size])
        at += size
    return sections


def framed(section: bytes) -> bytes:
    """With its length in five bytes, which is longer than need be and just as good."""
    size = len(section)
    return bytes((size >> shift & 127) | (128 if shift < 28 else 0) for shift in range(0, 35, 7)) + section


HEADER_END = 31


def rebuilt(payload: bytes, number: int, section: bytes) -> bytes:
    sections = sections_of(payload, HEADER_END)
    sections[number] = section
    return sealed(payload[:HEADER_END] + b"".join(map(framed, sections)))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e38])
def test_scales_that_are_no_scales_are_refused(scale: float) -> None:
    payload = BASE
    scales = bytearray(sections_of(payload, HEADER_END)[6])
    decode(rebuilt(payload, 6, bytes(scales)))
    scales[:4] = struct.pack("<f", scale)
    with pytest.raises(CodecError, match="scale"):
        decode(rebuilt(payload, 6, bytes(scales)))


def test_positions_out_of_range_are_refused() -> None:
    kept = struct.unpack_from("<I", BASE, 22)[0]
    ones = np.packbits(np.ones(kept, np.bool_)).tobytes()
    assert kept == 60
    with pytest.raises(CodecError, match="positions"):  # Rice with 6 low bits, all set: gaps of 64
        decode(rebuilt(BASE, 5, b"\x02\x01\x06" + np.packbits(np.ones(360, np.bool_)).tobytes() + ones))


def sections_with(
    steps: bytes, counts: bytes = b"\x00\x01\x80", numbers: bytes = b"\x00\x01" + bytes(12)
) -> bytes:
    """`COMPONENTS` with others: one of 40 + 50 numbers for the first tensor, none for the rest."""
    sections = sections_of(COMPONENTS, HEADER_END)
    sections[9:] = [counts, steps, numbers]
    return sealed(COMPONENTS[:HEADER_END] + b"".join(map(framed, sections)))


def test_components_that_nobody_wrote_are_refused() -> None:
    one, sections = struct.pack("<f", 1.0), sections_of(COMPONENTS, HEADER_END)
    pruned = len([value for value in TENSORS if value.role == "trainable"])
    assert (len(sections), pruned, sections[0][:1]) == (12, 2, b"\x00")
    decode(sections_with(one))
    for steps in (b"", one + one, *(struct.pack("<f", each) for each in (np.nan, np.inf, -1.0, 1e38))):
        with pytest.raises(CodecError, match="step"):
            decode(sections_with(steps))
    for counts in (b"\x00\x05" + bytes([0b10000000, 0b01000000]), b"\x00\x01\x40", b""):
        with pytest.raises(CodecError):
            decode(sections_with(one, counts=counts))
    for numbers in (b"", b"\x00\x01" + bytes(11), b"\x00\x08" + b"\xff" * 90):
        with pytest.raises(CodecError):
            decode(sections_with(one, numbers=numbers))


def test_the_numbers_of_a_component_are_multiplied_as_they_are_written() -> None:
    """The format by hand: 1 and -1 in the first row and column, all else 0."""
    first = np.zeros(90, np.bool_)
    first[0], second = True, np.zeros(90, np.bool_)
    second[40] = True  # planes, the upper first: 1 is 01, -1 is 10
    numbers = b"\x00\x02" + np.packbits(np.concatenate([second, first])).tobytes()
    plain = decode_update(sections_with(b"", counts=b"\x00\x00", numbers=b""), TENSORS, model_digest=MODEL)
    payload = sections_with(struct.pack("<f", 0.75), numbers=numbers)
    decoded = decode_update(payload, TENSORS, model_digest=MODEL)
    change = decoded.delta["w"] - plain.delta["w"]
    assert np.argwhere(change).tolist() == [[0, 0]]
    assert change[0, 0] == -0.75


def test_more_kept_than_there_is_and_unknown_settings_are_refused() -> None:
    payload = BASE
    for at, value in ((22, b"\xff\xff\xff\xff"), (26, b"\x09"), (26, b"\x00"), (27, b"\x20"), (29, b"\0\0")):
        with pytest.raises(CodecError):
            decode(sealed(payload[:at] + value + payload[at + len(value) : -4]))


BOMB = zlib.compress(bytes(200 << 20), 9)


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_compressed_plane_that_grows_is_stopped_at_the_models_size() -> None:
    tensors = (TensorSpec("w", (300, 300)),)
    packed = pack_model({"w": np.zeros((300, 300), np.float32)})
    head, sections = packed[:14], sections_of(packed, 14)
    sections[0] = b"\x01" + BOMB
    bomb = sealed(head + b"".join(map(framed, sections)))
    assert peak_bytes(lambda: unpack_model(bomb, tensors)) < 4 << 20


def test_claims_of_a_huge_count_take_no_memory() -> None:
    payload = BASE
    for at in (18, 22):  # parameters, kept
        claimed = sealed(payload[:at] + b"\xff\xff\xff\x7f" + payload[at + 4 : -4])
        assert peak_bytes(lambda claimed=claimed: decode(claimed)) < 1 << 20  # type: ignore[misc]
    for length in (b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff"):
        claimed = sealed(payload[:HEADER_END] + length + payload[HEADER_END + 1 : -4])
        assert peak_bytes(lambda claimed=claimed: decode(claimed)) < 1 << 20  # type: ignore[misc]
