"""Patches: every kind leads back to the file, and nothing else does."""

from __future__ import annotations

import bsdiff4
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_server.rollout.sources import shorter_ways, smallest_patch
from compression.updates import CodecError
from edge_client.inference.patches import (
    BSDIFF,
    BYTES,
    PACKED,
    WORDS,
    aligned_patches,
    apply_patch,
    bsdiff_patch,
    pack_file,
)
from edge_client.wire.blobs import BlobRef, sha256

files = st.binary(min_size=1, max_size=300)


def kind(patch: bytes) -> int:
    return patch[5]


@given(files)
def test_a_packed_file_is_the_file(new: bytes) -> None:
    assert apply_patch(pack_file(new), b"", len(new)) == new


@given(files, st.data())
def test_files_of_one_length_differ_by_bytes_and_by_words(old: bytes, data: st.DataObject) -> None:
    new = data.draw(st.binary(min_size=len(old), max_size=len(old)))
    patches = list(aligned_patches(old, new))
    assert [kind(patch) for patch in patches] == ([BYTES, WORDS] if len(old) % 4 == 0 else [BYTES])
    for patch in patches:
        assert apply_patch(patch, old, len(new)) == new


@given(files, files)
def test_our_reader_makes_of_a_bsdiff_what_bsdiff4_does(old: bytes, new: bytes) -> None:
    patch = bsdiff4.diff(old, new)
    assert bsdiff4.patch(old, patch) == new
    assert apply_patch(bsdiff_patch(patch, new), old, len(new)) == new


def test_each_kind_is_the_smallest_where_it_fits() -> None:
    """Weights that moved a little, as int8 and as float32; a file with something put in; something else."""
    rng = np.random.default_rng(0)
    int8 = rng.integers(-100, 100, 40_000).astype(np.int8)
    moved = (int8 + rng.integers(-1, 2, 40_000)).astype(np.int8)
    assert kind(smallest_patch(int8.tobytes(), moved.tobytes())) == BYTES
    float32 = rng.normal(0, 0.1, 10_000).astype(np.float32)
    nudged = (float32 * (1 + 1e-4 * rng.normal(size=10_000))).astype(np.float32)
    patch = smallest_patch(float32.tobytes(), nudged.tobytes())
    assert kind(patch) == WORDS
    assert len(patch) < 0.55 * nudged.nbytes
    grown = int8.tobytes()[:9000] + b"a new operator" + int8.tobytes()[9000:]
    assert kind(smallest_patch(int8.tobytes(), grown)) == BSDIFF
    assert len(smallest_patch(int8.tobytes(), grown)) < 400
    assert kind(smallest_patch(rng.bytes(40_000), bytes(20_000))) == PACKED


def test_only_what_saves_something_is_announced() -> None:
    rng, put = np.random.default_rng(0), []

    def keep(data: bytes) -> BlobRef:
        put.append(data)
        return BlobRef.of(data)

    new = rng.bytes(5000)
    near = new[:-1] + b"x"
    (source,) = shorter_ways(new, [rng.bytes(5000), near, new], keep)
    assert source.from_digest == sha256(near)
    assert apply_patch(put[0], near, len(new)) == new
    (packed,) = shorter_ways(bytes(5000), [], keep)
    assert packed.from_digest is None


def test_a_wrong_base_is_an_error_or_another_file() -> None:
    """That it is another file is for the digest to find: `tests/edge_client/test_releases.py`."""
    old, new = bytes(100), bytes(range(100))
    (by_bytes, by_words) = aligned_patches(old, new)
    for patch in (by_bytes, by_words):
        assert apply_patch(patch, b"\1" * 100, 100) != new
        with pytest.raises(CodecError, match="for a file of 100 bytes"):
            apply_patch(patch, bytes(99), 100)


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(1, 255))
def test_whatever_is_changed_on_the_way_is_one_error(noise: bytes, at: int, flip: int) -> None:
    old, new = b"the old model" * 20, b"the new model" * 21
    patch = bytearray(bsdiff_patch(bsdiff4.diff(old, new), new))
    patch[at % len(patch)] ^= flip
    for bad in (bytes(patch), noise, b"BRMP" + noise, bytes(patch)[: at % len(patch)]):
        with pytest.raises(CodecError):
            apply_patch(bad, old, len(new))


def hostile(control: list[tuple[int, int, int]], size: int) -> bytes:
    """A bsdiff patch that says what a test wants, well framed."""
    import bz2

    steps = b"".join(part.to_bytes(8, "little") for step in control for part in step)
    streams = [bz2.compress(data) for data in (steps, bytes(10), bytes(10))]
    lengths = b"".join(n.to_bytes(8, "little") for n in (len(streams[0]), len(streams[1]), size))
    return bsdiff_patch(b"BSDIFF40" + lengths + b"".join(streams), bytes(size))


@pytest.mark.parametrize(
    "control",
    [
        [(11, 0, 0)],  # adds more than there is
        [(0, 11, 0)],
        [(10, 10, 0), (1, 0, 0)],
        [(5, 0, 0)],  # ends too soon
        [(1 << 63 | 5, 0, 0)],  # a negative length
        [],
    ],
)
def test_a_bsdiff_that_lies_is_an_error(control: list[tuple[int, int, int]]) -> None:
    with pytest.raises(CodecError):
        apply_patch(hostile(control, 20), bytes(20), 20)


def test_a_bomb_is_cut_off() -> None:
    import bz2

    stream = bz2.compress(bytes(1 << 24))
    lengths = b"".join(n.to_bytes(8, "little") for n in (len(stream), len(stream), 20))
    patch = bsdiff_patch(b"BSDIFF40" + lengths + stream * 2, bytes(20))
    with pytest.raises(CodecError, match="longer than the file"):
        apply_patch(patch, bytes(20), 20)
