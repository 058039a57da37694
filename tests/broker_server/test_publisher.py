"""What devices may ask the server for: whatever a task names, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.publisher import INSIDE_BYTES, UNWATCHED, Publisher
from edge_client.session.blobs import BlobStore
from edge_client.versions import wanted_blobs
from edge_client.wire.blobs import CHUNK_BYTES
from edge_client.wire.chunks import BlobRequest
from edge_client.wire.errors import WireError
from edge_client.wire.frame import Envelope, decode
from edge_client.wire.signer import Signer
from edge_client.wire.topics import CHUNK, TASK, Topics
from edge_client.wire.weights import DeltaRef, WeightsRef
from tests.broker_server.test_intake import Desk


class FakeSession:
    """Keeps the topics that it is told to publish on."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.awaited: list[str] = []
        self.retained: dict[str, bytes] = {}

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        self.topics.append(topic)
        if retain:
            self.retained[topic] = payload

    def publish_many(self, messages: Iterable[tuple[str, bytes]], *, timeout_s: float) -> None:
        assert timeout_s > 0
        self.awaited += [topic for topic, _payload in messages]


def publisher(folder: Path, *stores: BlobStore, session: FakeSession | None = None) -> Publisher:
    signer = Signer.create(folder / "key")
    return Publisher(session or FakeSession(), Topics("f"), signer, *stores)  # type: ignore[arg-type]


def test_a_device_that_missed_a_broadcast_gets_all_that_a_task_names(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    store = desk.stages.artefacts
    step = DeltaRef(from_digest="0" * 64, to_digest="1" * 64, blob=store.put(b"a step of the variate"))
    control = WeightsRef(version=1, digest="1" * 64, full=store.put(b"the variate"), steps=(step,))
    task, made = replace(desk.task, control=control), publisher(tmp_path, store)
    made.task(task)
    wanted = [*wanted_blobs(task.bundle, task.weights, ""), control.full, step.blob]
    assert len({ref.digest for ref in wanted}) == 4
    for ref in wanted:
        made.send_chunks("pi-1", BlobRequest(blob=ref.digest, chunks=(0,)))


def test_what_no_task_names_is_not_sent(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    made = publisher(tmp_path, desk.stages.artefacts)
    made.task(desk.task)
    update = desk.stages.artefacts.put(b"of another device")
    with pytest.raises(WireError, match="not announced"):
        made.send_chunks("pi-1", BlobRequest(blob=update.digest, chunks=(0,)))


def test_a_small_step_is_inside_its_task_when_that_is_published_first(tmp_path: Path) -> None:
    desk, session, topics = Desk(tmp_path), FakeSession(), Topics("f")
    made = publisher(tmp_path, desk.stages.artefacts, session=session)
    step = b"a step".ljust(INSIDE_BYTES)
    refs = [desk.stages.artefacts.put(step), desk.stages.artefacts.put(b"of the variate")]
    made.task(desk.task, broadcast=refs)
    assert decode(session.retained[topics.all(TASK)]) == Envelope(desk.task, step)
    made.task(desk.task, broadcast=refs)
    assert decode(session.retained[topics.all(TASK)]).body == b""
    assert session.topics == [topics.all(TASK), topics.all(CHUNK), topics.all(TASK)]


def test_what_a_device_fetches_once_a_run_is_in_no_task(tmp_path: Path) -> None:
    desk, session, topics = Desk(tmp_path), FakeSession(), Topics("f")
    made = publisher(tmp_path, desk.stages.artefacts, session=session)
    bundle = desk.stages.artefacts.put(b"a program")
    made.task(replace(desk.task, bundle=bundle), broadcast=[bundle])
    assert session.topics == [topics.all(TASK), topics.all(CHUNK)]


def test_a_step_follows_its_task_at_once_and_a_large_model_as_the_broker_takes_it(tmp_path: Path) -> None:
    desk, session, topics = Desk(tmp_path), FakeSession(), Topics("f")
    made = publisher(tmp_path, desk.stages.artefacts, session=session)
    step = desk.stages.artefacts.put(bytes(INSIDE_BYTES + 1))
    large = desk.stages.artefacts.put(bytes(UNWATCHED * CHUNK_BYTES + 1))
    made.task(desk.task, broadcast=[step])
    assert (session.topics, session.awaited) == ([topics.all(TASK), topics.all(CHUNK)], [])
    made.task(desk.task, broadcast=[step, large])
    assert session.topics == [topics.all(TASK), topics.all(CHUNK), topics.all(TASK)]
    assert session.awaited == [topics.all(CHUNK)] * (UNWATCHED + 1)
