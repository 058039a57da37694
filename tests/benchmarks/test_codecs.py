"""The peers' codecs against answers known by hand, in closed form, or on average."""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.codecs import BASELINES, CODECS, Context, find_codec
from benchmarks.codecs.drive import Drive, hadamard
from benchmarks.codecs.float32 import Float32
from benchmarks.codecs.int8_blocks import Int8Blocks
from benchmarks.codecs.qsgd import Qsgd
from benchmarks.codecs.sparse_ternary import SparseTernary, bits_per_position, golomb_bits
from benchmarks.codecs.top_k import TopK
from benchmarks.errors import BenchmarkError
from compression.spec import TensorSpec
from compression.updates import PROFILES, encode_update

Floats = npt.NDArray[np.float32]
TENSORS = (
    TensorSpec("kernel", (30, 40)),
    TensorSpec("variance", (40,), "statistic"),
    TensorSpec("bias", (40,)),
    TensorSpec("temperature", ()),
)
CONTEXT = Context(TENSORS, "ab" * 32, 3)
SAID_BY_NOBODY = ""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def vector(*values: float) -> Floats:
    return np.array(values, np.float32)


def update(seed: int = 0) -> dict[str, Floats]:
    random = rng(seed)
    return {t.name: np.asarray(random.standard_t(3, t.shape), np.float32) for t in TENSORS}


# ---- all of them ----


@pytest.mark.parametrize("name", CODECS)
def test_what_arrives_has_the_shapes_of_the_model_and_points_the_same_way(name: str) -> None:
    codec, delta = find_codec(name), update()
    arrived = codec.decode(codec.encode(delta, CONTEXT, rng()), CONTEXT)
    assert [(n, a.shape, a.dtype) for n, a in arrived.items()] == [
        (t.name, t.shape, np.float32) for t in TENSORS
    ]
    meant, sent = (np.concatenate([a.ravel() for a in tensors.values()]) for tensors in (delta, arrived))
    assert meant @ sent > 0.3 * np.linalg.norm(meant) * np.linalg.norm(sent)


@pytest.mark.parametrize("name", BASELINES)
def test_statistics_arrive_bit_for_bit(name: str) -> None:
    codec, delta = find_codec(name), update()
    arrived = codec.decode(codec.encode(delta, CONTEXT, rng()), CONTEXT)
    np.testing.assert_array_equal(arrived["variance"], delta["variance"])


@pytest.mark.parametrize("name", [*BASELINES, "safe", "small"])
def test_with_feedback_nothing_is_lost_in_the_end(name: str) -> None:
    codec = find_codec(name)
    produced = {t.name: np.zeros(t.shape) for t in TENSORS if t.role == "trainable"}
    arrived = {name: array.copy() for name, array in produced.items()}
    residual = None
    for number in range(20):
        delta = update(number)
        payload, residual = codec.send(delta, residual, CONTEXT, rng(number))
        sent = codec.decode(payload, CONTEXT)
        for tensor in produced:
            produced[tensor] += delta[tensor]
            arrived[tensor] += sent[tensor]
    if residual is None:
        assert name not in ("stc-4", "stc-1", "safe", "small")
        return
    for tensor, array in produced.items():
        np.testing.assert_allclose(arrived[tensor] + residual[tensor], array, atol=2e-4)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [1, 2, 7, 257])
def test_vectors_of_any_size_and_of_zeros(name: str, size: int) -> None:
    codec = find_codec(name)
    context = Context((TensorSpec("kernel", (size,)),), "ab" * 32)
    for values in (np.zeros(size, np.float32), rng().normal(size=size).astype(np.float32)):
        arrived = codec.decode(codec.encode({"kernel": values}, context, rng()), context)["kernel"]
        assert arrived.shape == (size,) and np.isfinite(arrived).all()
        assert values.any() or not arrived.any()


def test_a_profile_is_the_products_own_payload() -> None:
    payload = find_codec("small").encode(update(), CONTEXT, rng())
    ours = encode_update(update(), PROFILES["small"], model_digest="ab" * 32, round_number=3, tensors=TENSORS)
    assert payload == ours.payload


def test_an_unknown_codec_is_named_with_those_that_are_known() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown codec 'zip'; known are lossless, .*topk-1"):
        find_codec("zip")


# ---- by hand ----


def test_float32_is_four_bytes_a_value() -> None:
    codec = Float32("", SAID_BY_NOBODY)
    assert codec.pack(vector(1.0, -2.0), rng()) == struct.pack("<2f", 1.0, -2.0)
    np.testing.assert_array_equal(codec.unpack(struct.pack("<2f", 1.0, -2.0), 2), [1.0, -2.0])


def test_int8_scales_each_block_by_its_largest() -> None:
    codec = Int8Blocks("", SAID_BY_NOBODY, block=2)
    data = codec.pack(vector(-127, 63.4, 0.5, 0.25, 0), rng())
    assert data == struct.pack("<3f5b", 1.0, np.float32(0.5) / np.float32(127), 0, -127, 63, 127, 64, 0)
    np.testing.assert_allclose(codec.unpack(data, 5), [-127, 63, 0.5, 64 * 0.5 / 127, 0], rtol=1e-6)


def test_int8_errs_by_half_a_step_at_most() -> None:
    codec, values = Int8Blocks("", SAID_BY_NOBODY), rng().standard_t(3, 10_000).astype(np.float32)
    error = np.abs(codec.unpack(codec.pack(values, rng()), values.size) - values)
    for start in range(0, values.size, 256):
        block = slice(start, start + 256)
        assert error[block].max() <= np.abs(values[block]).max() / 127 * 0.5001


def test_sparse_ternary_by_hand() -> None:
    """Four of sixteen kept, at 0, 3, 4 and 15: gaps 0, 2, 0, 10; b* is 1, as log(0.618)/log(0.75) is 1.67."""
    values = np.full(16, 0.5, np.float32)
    values[[0, 3, 4, 15]] = [4, -2, 1, -5]
    codec = SparseTernary("", SAID_BY_NOBODY, density=0.25)
    data = codec.pack(values, rng())
    assert golomb_bits(0.25) == 1
    mean = struct.pack("<If", 4, 3.0)
    remainders, signs = bytes([0b0000_0000]), bytes([0b0101_0000])
    unary = bytes([0b1011_0000, 0b0100_0000])  # quotients 0, 1, 0, 5, each so many 0 and a 1
    assert data == mean + remainders + signs + unary
    expected = np.zeros(16)
    expected[[0, 3, 4, 15]] = [3, -3, 3, -3]
    np.testing.assert_array_equal(codec.unpack(data, 16), expected)


@pytest.mark.parametrize(("density", "bits"), [(0.01, 6), (0.04, 4), (0.0025, 8)])
def test_sparse_ternary_takes_the_bits_of_its_formula(density: float, bits: int) -> None:
    """Positions at random: b* + 1/(1 - (1-p)^(2^b*)) bits each, and one for the sign."""
    size = 2_000_000
    assert golomb_bits(density) == bits
    data = SparseTernary("", SAID_BY_NOBODY, density=density).pack(rng().random(size, np.float32), rng())
    assert 8 * len(data) == pytest.approx(density * size * (bits_per_position(density) + 1), rel=0.01)


def test_a_hundredth_of_the_positions_takes_eight_bits_each() -> None:
    assert bits_per_position(0.01) == pytest.approx(6 + 1 / (1 - 0.99**64)) == pytest.approx(8.108, abs=1e-3)


def test_hadamard_by_hand_and_twice_is_the_identity() -> None:
    rows = vector(1, 2, 3, 4).reshape(1, 4)
    hadamard(rows)
    np.testing.assert_allclose(rows, [[5, -1, -2, 0]])
    hadamard(rows)
    np.testing.assert_allclose(rows, [[1, 2, 3, 4]])


def test_drive_by_hand() -> None:
    """(3, 1) turns to (4, 2)/sqrt 2 or, with one sign changed, to (2, 4)/sqrt 2: scale 10 sqrt 2 / 6."""
    codec = Drive("", SAID_BY_NOBODY)
    for seed in range(8):
        data = codec.pack(vector(3, 1), rng(seed))
        assert struct.unpack("<f", data[8:12]) == pytest.approx((10 * math.sqrt(2) / 6,))
        np.testing.assert_allclose(codec.unpack(data, 2), [10 / 3, 0], atol=1e-6)


def test_drive_spends_a_bit_a_value_and_errs_as_its_theory_says() -> None:
    """A long vector turned at random is normal: error pi/2 - 1 of its square, cosine sqrt(2/pi)."""
    values = rng().standard_t(3, 100_000).astype(np.float32)
    codec = Drive("", SAID_BY_NOBODY)
    data = codec.pack(values, rng(1))
    pieces = bin(100_000).count("1")  # each with a scale
    assert len(data) == 8 + 4 * pieces + 12_500
    arrived = codec.unpack(data, values.size)
    assert np.sum((arrived - values) ** 2) / np.sum(values**2) == pytest.approx(math.pi / 2 - 1, rel=0.02)
    cosine = values @ arrived / np.linalg.norm(values) / np.linalg.norm(arrived)
    assert cosine == pytest.approx(math.sqrt(2 / math.pi), rel=0.01)


@pytest.mark.parametrize("codec", [Drive("", SAID_BY_NOBODY), Qsgd("", SAID_BY_NOBODY)])
def test_codecs_that_throw_dice_are_right_on_average(codec: Drive | Qsgd) -> None:
    """The mean of 2000 draws errs by the error of one over 2000, if there is no bias."""
    values, draws = rng().lognormal(size=1024).astype(np.float32), 2000
    random, total, error = rng(1), np.zeros(1024), 0.0
    for _ in range(draws):
        arrived = codec.unpack(codec.pack(values, random), 1024)
        total += arrived
        error += float(np.sum((arrived - values) ** 2)) / draws
    assert np.sum((total / draws - values) ** 2) < 1.3 * error / draws


def test_qsgd_by_hand_where_nothing_is_left_to_chance() -> None:
    """Norm 5, five levels: 3 and -4 are levels 3 and 4, coded as 4 and 5: gamma 001 00, 001 01."""
    codec = Qsgd("", SAID_BY_NOBODY, levels=5, bucket=3)
    data = codec.pack(vector(3, 0, -4), rng())
    assert data[:12] == struct.pack("<2If", 1, 1, 5.0)
    lengths, signs, rest = bytes([0b0011_0010]), bytes([0b0100_0000]), bytes([0b0001_0000])  # high bits first
    assert data[12:] == lengths + signs + rest
    np.testing.assert_array_equal(codec.unpack(data, 3), [3, 0, -4])


@pytest.mark.parametrize(("bucket", "bits"), [(484, 4.0), (1936, 2.5)])
def test_qsgd_takes_the_bits_that_equal_magnitudes_need(bucket: int, bits: float) -> None:
    """Each comes to s/sqrt(n) levels: 1 costs 3 bits and a sign; 1/2 is that or, half the time, 1 bit."""
    values = np.where(rng().random(100 * bucket) < 0.5, np.float32(-3), np.float32(3))
    data = Qsgd("", SAID_BY_NOBODY, levels=22, bucket=bucket).pack(values, rng())
    assert 8 * (len(data) - 4 * 100 - 8) / values.size == pytest.approx(bits, rel=0.01)


def test_qsgd_errs_no_more_than_its_theorem_allows() -> None:
    """min(n/s^2, sqrt(n)/s) of the square, on average."""
    values = rng().normal(size=512 * 100).astype(np.float32)
    codec = Qsgd("", SAID_BY_NOBODY, levels=22, bucket=512)
    arrived = codec.unpack(codec.pack(values, rng()), values.size)
    assert np.sum((arrived - values) ** 2) / np.sum(values**2) < math.sqrt(512) / 22


def test_top_k_by_hand() -> None:
    codec = TopK("", SAID_BY_NOBODY, density=0.5)
    data = codec.pack(vector(0.1, -3, 2, 0), rng())
    assert data == struct.pack("<2I2f", 1, 2, -3, 2)
    np.testing.assert_array_equal(codec.unpack(data, 4), [0, -3, 2, 0])


@given(st.integers(1, 2000), st.integers(0, 1000))
def test_top_k_leaves_out_nothing_larger_than_what_it_keeps(size: int, seed: int) -> None:
    values = rng(seed).standard_t(3, size).astype(np.float32)
    arrived = TopK("", SAID_BY_NOBODY, density=0.1).unpack(
        TopK("", SAID_BY_NOBODY, density=0.1).pack(values, rng()), size
    )
    kept = arrived != 0
    assert kept.sum() == max(int(0.1 * size), 1)
    np.testing.assert_array_equal(arrived[kept], values[kept])
    assert size == kept.sum() or np.abs(values[~kept]).max() <= np.abs(values[kept]).min()
