"""What devices may ask the server for: whatever a task names, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.publisher import Publisher
from edge_client.session.blobs import BlobStore
from edge_client.versions import wanted_blobs
from edge_client.wire.chunks import BlobRequest
from edge_client.wire.errors import WireError
from edge_client.wire.signer import Signer
from edge_client.wire.topics import Topics
from edge_client.wire.weights import DeltaRef, WeightsRef
from tests.broker_server.test_intake import Desk


class FakeSession:
    """Keeps the topics that it is told to publish on."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.retained: dict[str, bytes] = {}

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        self.topics.append(topic)
        if retain:
            self.retained[topic] = payload


def publisher(folder: Path, *stores: BlobStore) -> Publisher:
    signer = Signer.create(folder / "key")
    return Publisher(FakeSession(), Topics("f"), signer, *stores)  # type: ignore[arg-type]


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
