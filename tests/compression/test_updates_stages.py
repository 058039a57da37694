"""The stages of the update codec, each against answers known by hand and against its inverse."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compression.updates import CodecError, integers, rans
from compression.updates.bits import (
    pack_flags,
    pack_planes,
    pack_ragged,
    unpack_flags,
    unpack_planes,
    unpack_ragged,
)
from compression.updates.floats import read_exact, read_short, shorten, write_exact, write_short
from compression.updates.sections import Reader, Writer
from compression.updates.stages import (
    NEGLIGIBLE,
    decode_positions,
    encode_positions,
    keep_largest,
    quantise,
)

uint32_lists = st.lists(st.integers(0, (1 << 27) - 1), max_size=300)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def reader_of(writer: Writer) -> Reader:
    return Reader(writer.finish(), b"TEST", 1 << 20)


# ---- bits ----


def test_planes_lie_most_significant_first() -> None:
    assert pack_planes(np.array([1, 2, 3], np.uint32), 2) == bytes([0b01110100])


@given(uint32_lists)
def test_planes_come_back(values: list[int]) -> None:
    array = np.array(values, np.uint32)
    np.testing.assert_array_equal(unpack_planes(pack_planes(array, 27), array.size, 27), array)


@given(st.lists(st.tuples(st.integers(0, 26), st.integers(0, (1 << 26) - 1)), max_size=200))
def test_bits_of_many_widths_come_back(pairs: list[tuple[int, int]]) -> None:
    widths = np.array([width for width, _ in pairs], np.uint8)
    values = np.array([value & ((1 << width) - 1) for width, value in pairs], np.uint32)
    np.testing.assert_array_equal(unpack_ragged(pack_ragged(values, widths), widths), values)


def test_flags_of_another_length_or_with_padding_are_refused() -> None:
    packed = pack_flags(np.array([True, False, True]))
    assert packed == b"\xa0"
    for data, count in ((packed, 9), (b"", 3), (b"\xa1", 3)):
        with pytest.raises(CodecError):
            unpack_flags(data, count)


# ---- entropy coding ----


@given(st.binary(min_size=1, max_size=2000))
@example(bytes(range(256)) * 8)
@example(b"\xff" * 5000)
def test_any_bytes_come_back_from_the_entropy_coder(plain: bytes) -> None:
    symbols = np.frombuffer(plain, np.uint8)
    coded = rans.encode(symbols)
    back, used = rans.decode(coded + b"more", symbols.size)
    assert (back.tobytes(), used) == (plain, len(coded))


@pytest.mark.parametrize("count", [1, 1000, 40_000, 300_000])
def test_entropy_coder_comes_within_two_percent_of_the_entropy(count: int) -> None:
    rng = np.random.default_rng(count)
    symbols = np.minimum(rng.geometric(0.4, count) - 1, 255).astype(np.uint8)
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / count
    entropy_bytes = -count * (shares * np.log2(shares)).sum() / 8
    coded = rans.encode(symbols)
    assert len(coded) <= 1.02 * entropy_bytes + 24
    assert len(coded) == pytest.approx(rans.estimated_size(rans.histogram(symbols)), rel=0.02, abs=4)
    np.testing.assert_array_equal(rans.decode(coded, count)[0], symbols)


@pytest.mark.parametrize("count", [1, 700, 5000, 30_000])
def test_symbol_by_symbol_and_row_by_row_are_the_same(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = np.minimum(np.random.default_rng(1).geometric(0.2, count) - 1, 90).astype(np.uint8)
    streams = []
    for lanes in (0, 1000):  # up to which Python's own numbers do it
        monkeypatch.setattr(rans, "FEW_LANES", lanes)
        streams.append(rans.encode(symbols))
        np.testing.assert_array_equal(rans.decode(streams[0], count)[0], symbols)
        assert rans.decode(streams[0], count)[1] == len(streams[0])
    assert streams[0] == streams[1]


@pytest.mark.parametrize("lanes", [0, 1000])
def test_an_entropy_coded_stream_that_is_cut_off_is_refused(
    lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rans, "FEW_LANES", lanes)
    coded = rans.encode(np.arange(2000).astype(np.uint8) % 7)
    for length in (0, 1, 3, 8, len(coded) - 1):
        with pytest.raises(CodecError):
            rans.decode(coded[:length], 2000)


# ---- integers ----


@given(uint32_lists)
@example([0] * 300)
@example([(1 << 27) - 1])
@example([0] * 299 + [(1 << 27) - 1])
def test_integers_come_back(values: list[int]) -> None:
    array = np.array(values, np.uint32)
    np.testing.assert_array_equal(integers.decode(integers.encode(array), array.size, 1 << 27), array)


def test_each_integer_code_is_chosen_where_it_is_the_smallest() -> None:
    rng = np.random.default_rng(4)
    few = np.array([3, 1, 2], np.uint32)
    gaps = rng.geometric(0.02, 300).astype(np.uint32) - 1
    skewed = np.minimum(rng.geometric(0.7, 50_000) - 1, 15).astype(np.uint32)
    chosen = [integers.encode(array)[0] for array in (few, gaps, skewed)]
    assert chosen == [integers.FIXED, integers.RICE, integers.TOKENS]


def bell(count: int) -> npt.NDArray[np.uint32]:
    """Numbers as components have them."""
    folded = np.rint(np.abs(np.random.default_rng(5).standard_normal(count)) * 3)
    return np.minimum(folded, 8).astype(np.uint32)


def test_a_few_thousand_integers_go_through_the_fast_coder() -> None:
    values = bell(5000)
    coded = integers.encode(values)
    assert coded[0] == integers.DEFLATED
    np.testing.assert_array_equal(integers.decode(coded, 5000, 9), values)
    large = values * 1000 + np.arange(5000, dtype=np.uint32) % 1000  # tokens leave bits out
    np.testing.assert_array_equal(integers.decode(integers.encode(large), 5000, 9000), large)


def test_the_fast_coder_is_left_where_it_costs_bytes() -> None:
    rare = (np.arange(5000) % 50 == 0).astype(np.uint32)  # 0.14 bits each; Huffman takes 1 at least
    assert integers.encode(rare)[0] != integers.DEFLATED


@pytest.mark.parametrize("length", [2, 3, 50, -1])
def test_deflated_tokens_that_are_cut_off_are_refused(length: int) -> None:
    with pytest.raises(CodecError):
        integers.decode(integers.encode(bell(5000))[:length], 5000, 9)


@pytest.mark.parametrize("count", [4999, 5001])
def test_deflated_tokens_of_another_number_are_refused(count: int) -> None:
    with pytest.raises(CodecError, match="tokens that are not"):
        integers.decode(integers.encode(bell(5000)), count, 9)


def test_an_inflater_is_stopped_behind_what_was_declared() -> None:
    bomb = zlib.compressobj(wbits=-15)
    stream = bomb.compress(bytes(50_000_000)) + bomb.flush()
    tracemalloc.start()
    with pytest.raises(CodecError):
        integers.decode(bytes([integers.DEFLATED, 0]) + stream, 100, 9)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "count", "limit"),
    [
        (b"x", 0, 9),  # bytes for nothing
        (b"", 3, 9),
        (b"\x00\x1c" + bytes(11), 3, 9),  # wider than any integer
        (b"\x09\x01\x00", 3, 9),  # no such code
        (b"\x00\x03\xff\x80", 3, 7),  # 7 where less is allowed
        (b"\x01\x00", 3, 9),  # no unary part
        (b"\x01\x00\xff", 3, 9),  # eight codes for three integers
        (b"\x01\x00" + bytes(1000) + b"\x07", 3, 1 << 27),  # a unary part longer than any writer's
        (b"\x02\x08\x00\x08", 3, 9),  # more mantissa bits than tokens have
        (b"\x03\x08\x00\x08", 3, 9),  # the same, deflated
        (b"\x03\x00\xff\xff", 3, 9),  # no deflated stream
    ],
)
def test_integers_that_nobody_wrote_are_refused(data: bytes, count: int, limit: int) -> None:
    with pytest.raises(CodecError):
        integers.decode(data, count, limit)


# ---- choosing, quantising, positions ----


def test_the_largest_magnitudes_are_kept_and_ties_go_by_position() -> None:
    values = np.array([1, -5, 0, 3, -3, 3, 0.5], np.float32)
    assert keep_largest(values, 3).tolist() == [1, 3, 4]
    assert keep_largest(values, 1).tolist() == [1]
    assert keep_largest(values, 7).tolist() == [0, 1, 3, 4, 5, 6]
    assert keep_largest(np.array([0, 1e-38, 2], np.float32), 2).tolist() == [2]


@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 60))
def test_nothing_dropped_is_larger_than_anything_kept(values: list[float], count: int) -> None:
    array = np.array(values, np.float32)
    kept = keep_largest(array, count)
    worth = np.count_nonzero(np.abs(array) >= NEGLIGIBLE)
    assert kept.size == min(count, worth)
    dropped = np.delete(np.abs(array), kept)
    if kept.size and dropped.size:
        assert dropped.max() <= max(np.abs(array[kept]).min(), NEGLIGIBLE)


def test_levels_run_from_the_smallest_to_the_largest_of_a_block() -> None:
    values = np.array([1, -2, 4, -8, 100, 100], np.float32)
    quantised = quantise(values, levels=8, block=4, rng=None)
    assert quantised.low.tolist() == [1, 100]
    assert quantised.step.tolist() == [1, 0]
    assert quantised.values().tolist() == [1, -2, 4, -8, 100, 100]


def test_one_level_is_the_mean_magnitude_with_the_sign() -> None:
    quantised = quantise(np.array([1, -3, 2, -10], np.float32), levels=1, block=3, rng=None)
    assert quantised.values().tolist() == [2, -2, 2, -10]


def test_rounding_is_off_by_at_most_half_a_step() -> None:
    values = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    quantised = quantise(values, levels=16, block=100, rng=None)
    errors = np.abs(quantised.values() - values)
    assert (errors <= np.repeat(quantised.step, 100) * 0.5001).all()


def test_a_thousand_stochastic_roundings_average_to_the_value() -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal(64).astype(np.float32)
    runs = np.stack([quantise(values, levels=4, block=64, rng=rng).values() for _ in range(1000)])
    step = float(quantise(values, levels=4, block=64, rng=None).step[0])
    standard_error = 0.5 * step / np.sqrt(1000)  # the largest that rounding up or down can have
    assert np.abs(runs.mean(axis=0) - values).max() < 4.5 * standard_error
    assert np.unique(runs[:, 3]).size == 2


@given(st.integers(1, 400), st.data())
def test_positions_come_back(size: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1)))
    positions = np.array(sorted(chosen), np.int64)
    coded = encode_positions(positions, size)
    np.testing.assert_array_equal(decode_positions(coded, positions.size, size), positions)


def test_positions_are_all_a_bitmap_or_gaps() -> None:
    rng = np.random.default_rng(3)
    coded = [encode_positions(np.sort(rng.permutation(4000)[:n]), 4000) for n in (4000, 2000, 40)]
    assert [data[0] for data in coded] == [0, 1, 2]
    assert len(coded[0]) == 1
    assert len(coded[1]) == 501
    assert len(coded[2]) < 60


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\x00", 9),  # all, but not all
        (b"\x00\x00", 10),
        (b"\x01\xff\xc0", 9),  # a bitmap of ten
        (b"\x02\x00\x04\xff", 2),  # gaps of 15
        (b"\x02\x00\x03\x77\x80", 3),  # gaps that add up to more than there is
        (b"\x03\x00", 2),
        (b"", 2),
    ],
)
def test_positions_that_nobody_wrote_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(CodecError):
        decode_positions(data, count, 10)


# ---- floats ----


@given(st.lists(finite, max_size=200))
def test_exact_values_come_back_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    writer = Writer(b"TEST", 0)
    write_exact(array, writer)
    back = read_exact(reader_of(writer), array.size)
    np.testing.assert_array_equal(back.view(np.uint32), array.view(np.uint32))


@pytest.mark.parametrize(
    ("plane", "method"),
    [
        (np.random.default_rng(0).integers(0, 255, 4000), 0),
        (np.tile(np.random.default_rng(0).integers(0, 255, 100), 3), 1),
        (np.tile(np.random.default_rng(0).integers(0, 255, 100), 40), 2),
        (np.random.default_rng(0).geometric(0.3, 4000), 3),
    ],
)
def test_each_plane_takes_the_method_that_suits_it(plane: np.ndarray, method: int) -> None:
    writer = Writer(b"TEST", 0)
    values = (plane.astype(np.uint32) % 255 << 23).view(np.float32)
    write_exact(values, writer)
    reader = reader_of(writer)
    assert reader.section()[0] == method


@given(st.lists(finite, max_size=100), st.integers(0, 23))
def test_shortened_values_lie_between_zero_and_the_value(values: list[float], mantissa: int) -> None:
    array = np.array(values, np.float32)
    short = shorten(array, mantissa, towards_zero=True)
    assert (np.abs(short) <= np.abs(array)).all()
    assert (short * np.sign(array) >= 0).all()
    normal = np.abs(array) >= np.finfo(np.float32).tiny
    assert (np.abs(array - short)[normal] <= np.abs(array)[normal] * 2.0**-mantissa).all()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=100), st.integers(0, 23))
def test_shortened_values_come_back_bit_for_bit(values: list[float], mantissa: int) -> None:
    short = shorten(np.array(values, np.float32), mantissa, towards_zero=False)
    writer = Writer(b"TEST", 0)
    write_short(short, mantissa, writer)
    back = read_short(reader_of(writer), short.size, mantissa)
    np.testing.assert_array_equal(back.view(np.uint32), short.view(np.uint32))
