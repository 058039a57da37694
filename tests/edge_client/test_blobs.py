"""Chunked transfers on disk: what is kept, what is missing, and that nothing wrong is ever kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edge_client.files import write_atomically
from edge_client.session.blobs import HELD, BlobError, BlobStore
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split

LARGE = bytes(random.Random(1).randbytes(3 * CHUNK_BYTES + 17))
PARTS = split(LARGE)
REF = BlobRef.of(LARGE)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_chunks_in_any_order_make_the_blob(store: BlobStore) -> None:
    for index in (3, 0, 2):
        assert not store.add_chunk(REF, index, PARTS[index])
    assert store.missing(REF) == [1]
    assert store.add_chunk(REF, 1, PARTS[1])
    assert store.read(REF) == LARGE
    assert not store.add_chunk(REF, 1, PARTS[1])  # late duplicate: nothing to complete any more


def test_an_interrupted_transfer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    BlobStore(tmp_path).add_chunk(REF, 2, PARTS[2])
    assert BlobStore(tmp_path).missing(REF) == [0, 1, 3]


@pytest.mark.parametrize(("index", "data"), [(0, PARTS[1]), (0, PARTS[0][:-1]), (4, PARTS[0]), (0, b"")])
def test_a_wrong_chunk_is_refused_and_not_kept(store: BlobStore, index: int, data: bytes) -> None:
    with pytest.raises(BlobError, match="not part of blob"):
        store.add_chunk(REF, index, data)
    assert store.missing(REF) == [0, 1, 2, 3]


def test_a_blob_damaged_on_disk_is_removed_and_said(store: BlobStore) -> None:
    ref = store.put(b"payload")
    store.path(ref.digest).write_bytes(b"paylozd")
    with pytest.raises(BlobError, match="damaged on disk"):
        store.read(ref)
    assert store.missing(ref) == [0]


def test_right_chunks_under_a_wrong_total_are_refused(store: BlobStore) -> None:
    lie = BlobRef(digest="0" * 64, size=REF.size, chunks=REF.chunks)
    for index in (0, 1, 2):
        store.add_chunk(lie, index, PARTS[index])
    with pytest.raises(BlobError, match="bad manifest"):
        store.add_chunk(lie, 3, PARTS[3])
    assert not store.has(lie)


def test_only_what_is_in_use_is_kept(store: BlobStore) -> None:
    kept, dropped = store.put(b"kept"), store.put(b"dropped")
    store.add_chunk(REF, 0, PARTS[0])
    store.keep_only([kept.digest])
    assert store.has(kept)
    assert not store.has(dropped)
    assert store.missing(REF) == [0, 1, 2, 3]


def all_parts_without_the_join(store: BlobStore) -> None:
    """What a power cut between the last chunk and the join leaves."""
    for index, part in enumerate(PARTS):
        write_atomically(store.path(f"{REF.digest}.parts") / str(index), part)


def test_a_power_cut_before_the_join_leaves_a_finished_blob(store: BlobStore) -> None:
    all_parts_without_the_join(store)
    assert not store.has(REF)
    assert store.missing(REF) == []
    assert store.has(REF)
    assert store.read(REF) == LARGE


def test_parts_damaged_on_disk_are_fetched_again(store: BlobStore) -> None:
    all_parts_without_the_join(store)
    (store.path(f"{REF.digest}.parts") / "2").write_bytes(PARTS[1])
    assert store.missing(REF) == [0, 1, 2, 3]
    for index, part in enumerate(PARTS):
        store.add_chunk(REF, index, part)
    assert store.read(REF) == LARGE


def test_a_blob_that_is_not_there_is_said_to_be_missing(store: BlobStore) -> None:
    with pytest.raises(BlobError, match="is not here"):
        store.read(REF)


def test_files_are_for_their_owner_only(store: BlobStore) -> None:
    assert store.path(store.put(b"payload").digest).stat().st_mode & 0o777 == 0o600


def test_what_is_held_is_in_memory_until_it_is_swept(tmp_path: Path) -> None:
    store, data = BlobStore(tmp_path), b"a small step"
    ref = BlobRef.of(data)
    store.hold(ref, data)
    assert (store.has(ref), store.missing(ref), store.read(ref)) == (True, [], data)
    assert not list(tmp_path.iterdir())
    store.keep_only([ref.digest])
    assert store.has(ref)
    store.keep_only([])
    assert not store.has(ref)


def test_what_is_never_swept_does_not_fill_the_memory(tmp_path: Path) -> None:
    store, steps = BlobStore(tmp_path), [bytes([number]) for number in range(3 * HELD)]
    for step in steps:
        store.hold(BlobRef.of(step), step)
    assert [step for step in steps if store.has(BlobRef.of(step))] == steps[-HELD:]


def test_bytes_that_are_not_the_blobs_are_not_held(tmp_path: Path) -> None:
    store, ref = BlobStore(tmp_path), BlobRef.of(b"a step")
    store.hold(ref, b"a pets")
    assert not store.has(ref)
