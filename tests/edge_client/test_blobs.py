"""Chunked transfers: what is kept, what is asked for again, and that nothing wrong is ever kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.session.blobs import BlobError, BlobStore
from edge_client.session.downloads import PATIENCE_S, RETRY_S, WINDOW, Downloads
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


def downloads(store: BlobStore) -> Downloads:
    return Downloads(store, random.Random(0))


def test_a_device_waits_for_the_broadcast_before_it_asks(store: BlobStore) -> None:
    wanted = downloads(store)
    assert not wanted.want(REF, now=0.0)
    assert wanted.due(PATIENCE_S / 2) == []
    (request,) = wanted.due(PATIENCE_S)
    assert request.chunks == (0, 1, 2, 3)[:WINDOW]


def test_it_asks_again_when_nothing_comes_and_ever_more_rarely(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    times = []
    now = 0.0
    while len(times) < 4:
        now = wanted.next_due() or 0.0
        assert wanted.due(now)
        times.append(now)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps[0] >= 0.75 * RETRY_S
    assert gaps == sorted(gaps)


def test_it_asks_for_the_rest_as_soon_as_the_window_has_arrived(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    wanted.due(1.0)
    for index in (0, 1, 2):
        assert not wanted.on_chunk(REF.digest, index, PARTS[index], now=1.5)
    assert wanted.on_chunk(REF.digest, 3, PARTS[3], now=1.6)
    assert wanted.next_due() is None
    assert wanted.want(REF, now=2.0)


def test_chunks_that_nobody_announced_are_not_kept(store: BlobStore) -> None:
    assert not downloads(store).on_chunk(REF.digest, 0, PARTS[0], now=0.0)
    assert store.missing(REF) == [0, 1, 2, 3]


@given(order=st.permutations(range(4)), lost=st.sets(st.integers(0, 3)))
@settings(max_examples=25, deadline=None)
def test_whatever_is_lost_the_blob_arrives(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], lost: set[int]
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    for index in order:
        if index not in lost:
            wanted.on_chunk(REF.digest, index, PARTS[index], now=0.1)
    now = 0.1
    while (due := wanted.next_due()) is not None:
        now = max(now, due)
        for request in wanted.due(now):
            for index in request.chunks:
                wanted.on_chunk(REF.digest, index, PARTS[index], now=now + 0.01)
    assert store.read(REF) == LARGE
