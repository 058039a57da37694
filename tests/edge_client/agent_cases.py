"""An agent with its network replaced by two lists and its clock by a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compression.spec import ModelSpec, TableInput, TensorSpec, TrainableBundle, weights_digest
from compression.updates import pack_model
from edge_client.agent import Agent
from edge_client.config import DataConfig, EdgeConfig
from edge_client.inference.gate import preparation_digest
from edge_client.session.address import BrokerAddress
from edge_client.session.inbox import ConnectionChange, Incoming
from edge_client.session.mqtt import SessionError
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split
from edge_client.wire.chunks import BlobRequest, Chunk
from edge_client.wire.fields import Message
from edge_client.wire.frame import decode, encode
from edge_client.wire.rollout import Release
from edge_client.wire.rounds import Result, Task
from edge_client.wire.signer import Signer
from edge_client.wire.topics import CHUNK, MESSAGE, RELEASE, TASK, Topics
from edge_client.wire.weights import WeightsRef
from edge_client.work import Outcome, TaskCancelledError

NAME = "pi-1"
TOPICS = Topics("test")
SPEC = ModelSpec("m", TableInput(("x", "y"), (0.0, 0.0), (1.0, 1.0)), ("a", "b"), (TensorSpec("w", (2,)),))
WEIGHTS = {"w": np.ones(2, np.float32)}


@dataclass
class FakeSession:
    """What the agent sends is in `out`; what is in `inbox` it receives."""

    clock: Clock
    inbox: list[Incoming | ConnectionChange] = field(default_factory=list)
    out: list[Message] = field(default_factory=list)
    connected: bool = True
    seconds_a_chunk: float = 0.0

    def receive(self, timeout_s: float) -> Incoming | ConnectionChange | None:
        return self.inbox.pop(0) if self.inbox else None

    def publish(self, topic: str, payload: bytes, **_: object) -> None:
        if not self.connected:
            raise SessionError(f"{topic}: not connected to the broker")
        self.out.append(decode(payload).message)

    def publish_many(self, messages: Iterable[tuple[str, bytes]], *, timeout_s: float) -> None:
        for topic, payload in messages:
            self.clock.now += self.seconds_a_chunk
            self.publish(topic, payload)


@dataclass
class Clock:
    now: float = 1000.0


class Case:
    """An agent and the server's side of its conversation."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.session = FakeSession(self.clock)
        self._signer = Signer.create(tmp_path / "key")
        table = tmp_path / "table.csv"
        rows = [f"{index},{index * 2},{'ab'[index % 2]}" for index in range(40)]
        table.write_text("\n".join(["x,y,label", *rows]))
        self.config = EdgeConfig(
            name=NAME,
            fleet="test",
            server_key=self._signer.public_hex,
            state=str(tmp_path / "state"),
            broker=BrokerAddress("localhost", 1883),
            data=DataConfig(source=f"table:{table}"),
        )
        monkeypatch.setattr("edge_client.agent.Session", lambda *_, **__: self.session)
        monkeypatch.setattr("edge_client.agent.time", SimpleNamespace(monotonic=lambda: self.clock.now))
        self.agent = Agent(self.config)

    def reboot(self) -> None:
        """The process ends without a word and starts again."""
        self.agent._state.close()
        self.session.inbox.clear()
        self.session.out.clear()
        self.agent = Agent(self.config)

    def step(self, *items: Message | ConnectionChange, seconds: float = 0.0) -> list[Message]:
        """Let time pass, hand over some messages, take one turn; what the agent sent in it."""
        self.clock.now += seconds
        self.arrive(*items)
        before = len(self.session.out)
        self.agent._step()
        return self.session.out[before:]

    def steps(self, seconds: float) -> list[Message]:
        """A turn a second."""
        return [message for _ in range(int(seconds)) for message in self.step(seconds=1.0)]

    def arrive(self, *items: Message | ConnectionChange) -> None:
        """Put something into the inbox, for the agent to find while it works."""
        self.session.inbox += [
            item if isinstance(item, ConnectionChange) else self._from_server(item) for item in items
        ]

    def task_with(self, task: Task, body: bytes) -> list[Message]:
        """Publish a task with something inside; what the agent sent in the turn."""
        self.session.inbox.append(self._from_server(task, body))
        return self.step()

    def withdraw(self) -> list[Message]:
        """Take the retained release away; what the agent sent in the turn."""
        self.session.inbox.append(Incoming(TOPICS.all(RELEASE), b"", False, lambda: None, self.clock.now))
        return self.step()

    def tell(self, message: Message) -> list[Message]:
        """Send something on the device's own topic; what the agent sent in the turn."""
        topic = TOPICS.down(NAME, MESSAGE)
        payload = encode(message, topic=topic, signer=self._signer)
        self.session.inbox.append(Incoming(topic, payload, False, lambda: None, self.clock.now))
        return self.step()

    def chunk(self, data: bytes, index: int) -> None:
        ref = BlobRef.of(data)
        payload = encode(Chunk(blob=ref.digest, index=index), split(data)[index])
        self.session.inbox.append(
            Incoming(TOPICS.down(NAME, CHUNK), payload, False, lambda: None, self.clock.now)
        )

    def answer_requests(self, *blobs: bytes) -> None:
        """Serve what was asked for, until nothing is asked for any more."""
        by_digest = {BlobRef.of(data).digest: data for data in blobs}
        sent = self.session.out
        for _ in range(20):
            requests = [message for message in sent if isinstance(message, BlobRequest)]
            for request in requests:
                for index in request.chunks:
                    self.chunk(by_digest[request.blob], index)
            sent = self.step(seconds=1.0)

    def _from_server(self, message: Message, body: bytes = b"") -> Incoming:
        channel = {Task: TASK, Release: RELEASE}.get(type(message), MESSAGE)
        topic = TOPICS.down(NAME, MESSAGE) if channel == MESSAGE else TOPICS.all(channel)
        payload = encode(message, body, topic=topic, signer=self._signer)
        return Incoming(topic, payload, False, lambda: None, self.clock.now)


def bundle_of(spec: ModelSpec = SPEC) -> bytes:
    """A bundle with the right spec and no program in it."""
    return TrainableBundle(spec, b"no program").to_bytes()


def task(number: int, *, kind: str = "evaluate", cohort: tuple[str, ...] = (NAME,), **fields: Any) -> Task:
    fields = {"bundle": BlobRef.of(bundle_of()), "weights": weights_ref()} | fields
    return Task(fleet="test", run="0" * 16, number=number, kind=kind, cohort=cohort, **fields)  # type: ignore[arg-type]


def weights_ref(version: int = 0) -> WeightsRef:
    return WeightsRef(version=version, digest=weights_digest(WEIGHTS), full=BlobRef.of(pack_model(WEIGHTS)))


def release(version: int, model: bytes = b"a model", spec: ModelSpec = SPEC, **fields: Any) -> Release:
    plain = Release(
        fleet="test",
        order=version,
        version=version,
        preparation=preparation_digest(spec),
        model=BlobRef.of(model),
        bundle=BlobRef.of(bundle_of(spec)),
        weights=weights_ref(),
        calibration="none",
    )
    return replace(plain, **fields)


UP, DOWN = ConnectionChange(True, "connected"), ConnectionChange(False, "lost")
LARGE = np.random.default_rng(0).bytes(3 * CHUNK_BYTES)


def statistics(number: int) -> Task:
    """A task that needs no blobs."""
    return task(number, kind="statistics", columns=("x",), bundle=None, weights=None)


def offers(messages: list[Any], number: int) -> int:
    """How often the result of a task was offered."""
    return sum(isinstance(message, Result) and message.task == number for message in messages)


def performing(case: Case, monkeypatch: pytest.MonkeyPatch, batches: Callable[[int], None]) -> list[int]:
    """Replace training by four batches with something happening before each; numbers of the tasks done."""
    done: list[int] = []

    def perform(work: Task, cancelled: Callable[[], bool]) -> Outcome:
        for batch in range(4):
            batches(batch)
            if cancelled():
                raise TaskCancelledError
        done.append(work.number)
        return Outcome(Result(task=work.number, status="done"))

    monkeypatch.setattr(case.agent._workshop, "perform", perform)
    return done
