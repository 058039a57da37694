"""Asking for chunks: soon on a fast link, never twice for what is still on its way on a slow one."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.files import write_atomically
from edge_client.session.blobs import BlobStore
from edge_client.session.downloads import PATIENCE_S, RETRY_S, SLOWEST_CHUNK_S, WINDOW, Downloads
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split

LARGE = bytes(random.Random(1).randbytes(5 * CHUNK_BYTES + 17))
PARTS = split(LARGE)
REF = BlobRef.of(LARGE)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def downloads(store: BlobStore) -> Downloads:
    return Downloads(store, random.Random(0))


@dataclass
class Link:
    """A device behind a link that hands over one chunk after the other, in order, in virtual time."""

    wanted: Downloads
    bytes_a_second: float
    latency_s: float = 0.05
    now: float = 0.0
    free_at: float = 0.0
    sent: int = 0
    requests: list[float] = field(default_factory=list)
    under_way: list[tuple[float, str, int]] = field(default_factory=list)
    blobs: dict[str, list[bytes]] = field(default_factory=dict)

    def send(self, digest: str, indices: Sequence[int]) -> None:
        for index in indices:
            size = len(self.blobs[digest][index])
            self.free_at = max(self.free_at, self.now + self.latency_s) + size / self.bytes_a_second
            heapq.heappush(self.under_way, (self.free_at, digest, index))
            self.sent += size

    def fetch(self, data: bytes, *, heard: int) -> None:
        """Run until a blob is complete, of which the last `heard` chunks are broadcast now."""
        ref = BlobRef.of(data)
        self.blobs[ref.digest] = split(data)
        assert not self.wanted.want(ref, self.now)
        self.send(ref.digest, range(max(0, ref.count - heard), ref.count))
        while (due := self.wanted.next_due()) is not None:
            if self.under_way and self.under_way[0][0] <= due:
                self.now, digest, index = heapq.heappop(self.under_way)
                self.wanted.on_chunk(digest, index, self.blobs[digest][index], self.now)
                continue
            self.now = max(self.now, due)
            for request in self.wanted.due(self.now):
                self.requests.append(self.now)
                self.send(request.blob, request.chunks)


@pytest.mark.parametrize("heard", [0, 3, 16], ids=["missed", "tail heard", "heard"])
@pytest.mark.parametrize("kilobytes_a_second", [4.4, 20, 50, 200])
def test_a_slow_link_carries_a_blob_about_once(
    store: BlobStore, kilobytes_a_second: float, heard: int
) -> None:
    data = random.Random(2).randbytes(2_000_000)
    link = Link(downloads(store), 1000 * kilobytes_a_second)
    link.fetch(data, heard=heard)
    ideal = len(data) / link.bytes_a_second
    assert store.read(BlobRef.of(data)) == data
    assert link.sent < 1.1 * len(data)
    assert link.now < 1.2 * ideal + 2 * PATIENCE_S


@pytest.mark.parametrize("kilobytes_a_second", [4.4, 20, 50, 200])
def test_once_measured_a_broadcast_of_one_chunk_is_waited_for(
    store: BlobStore, kilobytes_a_second: float
) -> None:
    link = Link(downloads(store), 1000 * kilobytes_a_second)
    link.fetch(LARGE, heard=0)
    before = link.sent
    step = random.Random(3).randbytes(100_000)
    link.fetch(step, heard=1)
    assert link.sent - before == len(step)


def test_two_blobs_at_a_time_do_not_make_each_other_ask_again(store: BlobStore) -> None:
    link = Link(downloads(store), 4400.0)
    first, second = random.Random(4).randbytes(600_000), random.Random(5).randbytes(600_000)
    link.blobs[BlobRef.of(first).digest] = split(first)
    link.wanted.want(BlobRef.of(first), 0.0)
    link.fetch(second, heard=0)
    assert store.has(BlobRef.of(first))
    assert link.sent == len(first) + len(second)


@pytest.mark.parametrize("measured", [False, True])
def test_on_a_fast_link_a_missed_broadcast_is_asked_for_at_once(store: BlobStore, measured: bool) -> None:
    link = Link(downloads(store), 5e6)
    if measured:
        link.fetch(LARGE, heard=6)
    begun, link.requests = link.now, []
    link.fetch(b"a step of a few bytes", heard=0)
    assert len(link.requests) == 1
    assert PATIENCE_S <= link.requests[0] - begun < 1.0
    assert link.now - begun < 1.0


def test_the_first_request_is_for_one_chunk_the_next_for_a_window(store: BlobStore) -> None:
    wanted = downloads(store)
    assert not wanted.want(REF, now=0.0)
    assert wanted.due(PATIENCE_S / 2) == []
    (probe,) = wanted.due(PATIENCE_S)
    assert probe.chunks == (5,)
    wanted.on_chunk(REF.digest, 5, PARTS[5], now=0.5)
    (request,) = wanted.due(0.5)
    assert request.chunks == (0, 1, 2, 3)
    assert len(request.chunks) == WINDOW
    for index in (0, 1, 2):
        wanted.on_chunk(REF.digest, index, PARTS[index], now=0.6)
        assert wanted.due(0.6) == []
    wanted.on_chunk(REF.digest, 3, PARTS[3], now=0.6)
    (last,) = wanted.due(0.6)
    assert last.chunks == (4,)
    assert wanted.on_chunk(REF.digest, 4, PARTS[4], now=0.7)
    assert wanted.next_due() is None
    assert wanted.want(REF, now=2.0)


def test_before_anything_is_measured_the_slowest_link_is_assumed(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    assert wanted.due(1.0)
    due = wanted.next_due()
    assert due is not None
    assert due - 1.0 >= SLOWEST_CHUNK_S


def test_what_is_lost_on_a_fast_link_is_asked_for_again_and_ever_more_rarely(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    wanted.on_chunk(REF.digest, 0, PARTS[0], now=0.01)
    times: list[float] = []
    while len(times) < 4:
        now = wanted.next_due()
        assert now is not None
        (request,) = wanted.due(now)
        assert request.chunks == ((5,) if times else (1, 2, 3, 4))  # again: one chunk, to find out
        times.append(now)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert RETRY_S <= gaps[0] <= 1.5 * RETRY_S
    assert gaps == sorted(gaps)


def test_after_a_reconnect_it_asks_again_soon(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    wanted.due(1.0)
    wanted.reconnected(now=2.0)
    due = wanted.next_due()
    assert due is not None
    assert 2.0 + PATIENCE_S <= due <= 2.0 + 2 * PATIENCE_S


def test_chunks_that_were_all_here_complete_the_transfer(store: BlobStore) -> None:
    wanted = downloads(store)
    wanted.want(REF, now=0.0)
    for index, part in enumerate(PARTS):  # as a power cut before the join leaves them
        write_atomically(store.path(f"{REF.digest}.parts") / str(index), part)
    assert wanted.due(10.0) == []
    assert wanted.next_due() is None
    assert wanted.want(REF, now=10.0)
    assert store.read(REF) == LARGE


def test_a_blob_that_was_removed_is_wanted_again(store: BlobStore) -> None:
    wanted = downloads(store)
    store.put(LARGE)
    assert wanted.want(REF, now=0.0)
    store.path(REF.digest).unlink()
    assert not wanted.want(REF, now=1.0)
    assert wanted.due(2.0)


def test_chunks_that_nobody_announced_are_not_kept(store: BlobStore) -> None:
    assert not downloads(store).on_chunk(REF.digest, 0, PARTS[0], now=0.0)
    assert store.missing(REF) == [0, 1, 2, 3, 4, 5]


@given(order=st.permutations(range(6)), lost=st.sets(st.integers(0, 5)))
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
