"""What is published of models: orders that only grow, patches for what devices have, directives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from broker_server.rollout.offers import LAST_ORDER, Offers, is_wide
from broker_server.rollout.registry import ModelRecord, Registry
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.inference.patches import apply_patch
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import SessionError
from edge_client.wire.blobs import BlobRef, sha256
from edge_client.wire.fields import Message
from edge_client.wire.rollout import Release, ReleaseReport
from edge_client.wire.signer import Signer
from tests.broker_server.test_intake import hello
from tests.edge_client.agent_cases import release

OLD = np.random.default_rng(0).bytes(10_000)
NEW = OLD[:5000] + b"moved" + OLD[5005:]


@dataclass
class FakePublisher:
    """Keeps what it is given; without a connection it says so."""

    connected: bool = True
    told: list[tuple[str, Message]] = field(default_factory=list)
    everyone: list[Release] = field(default_factory=list)

    def announce(self, _release: Release) -> None: ...

    def tell(self, device: str, message: Message) -> None:
        self.told.append((device, message))

    def release(self, message: Release, *, broadcast: bool) -> None:
        if not self.connected:
            raise SessionError("not connected")
        self.everyone.append(message)


class Desk:
    """A registry of two models, and devices that have the first."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.store, self.models = ModelStore(self.ledger.connection), BlobStore(folder / "models")
        signer = Signer.create(folder / "key")
        self.registry = Registry(self.store, "test", signer.public_hex, signer)
        for version, model in ((1, OLD), (2, NEW)):
            self.models.put(model)
            self.registry.add(record(version, model))
        self.publisher = FakePublisher()
        self.offers = Offers(self.ledger, self.store, self.registry, self.models, self.publisher)  # type: ignore[arg-type]

    def device(self, name: str, version: int) -> None:
        self.ledger.keep_hello(name, replace(hello(), model_version=version), 1.0)


def record(version: int, model: bytes) -> ModelRecord:
    return ModelRecord(
        version=version,
        parent=version - 1,
        created=1.0,
        origin="",
        recipe="",
        metrics={},
        release=release(version, model),
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with contextlib.closing(made.ledger):
        yield made


def test_orders_grow_whatever_the_clock_says(desk: Desk) -> None:
    orders = [desk.offers.make(desk.registry.get(1)).order for _ in range(3)]
    assert orders == sorted(set(orders))
    assert orders[0] >= 1_600_000_000  # of a ledger that was lost no order comes again
    desk.ledger.set_fact(LAST_ORDER, str(1 << 40))
    assert desk.offers.make(desk.registry.get(1)).order == (1 << 40) + 1


def test_patches_lead_from_what_devices_have(desk: Desk) -> None:
    desk.device("pi-1", 1)
    made = desk.offers.make(desk.registry.get(2))
    patch = next(source for source in made.sources if source.from_digest == sha256(OLD))
    assert apply_patch(desk.models.read(patch.blob), OLD, len(NEW)) == NEW
    assert patch.blob.size < made.model.size / 4


def test_a_device_is_told_the_same_until_it_answers(desk: Desk) -> None:
    assert desk.offers.direct("pi-1", 2, 1)
    assert not desk.offers.direct("pi-1", 2, 1)
    (_, first), (_, again) = desk.publisher.told
    assert first == again
    assert isinstance(first, Release) and first.cohort == ("pi-1",) and not first.rollback
    report = ReleaseReport(order=first.order, version=2, outcome="refused", reason="slow")
    desk.ledger.keep_release_report("pi-1", report)
    assert desk.offers.direct("pi-1", 2, 1)  # somebody wants it tried again
    assert desk.offers.direct("pi-1", 1, 2)
    back = desk.offers.directed("pi-1")
    assert back is not None and back.rollback and back.order > first.order


def test_a_lost_connection_is_no_error(desk: Desk) -> None:
    desk.publisher.connected = False
    desk.offers.to_everyone(release(1), broadcast=True)
    assert desk.publisher.everyone == []


def test_a_model_whose_file_is_gone_costs_the_patch_only(desk: Desk) -> None:
    desk.device("pi-1", 1)
    desk.models.path(BlobRef.of(OLD).digest).unlink()
    sources = desk.offers.make(desk.registry.get(2)).sources
    assert all(source.from_digest is None for source in sources)


def test_chunks_are_broadcast_when_most_want_them() -> None:
    assert is_wide("abc", "abcd") and not is_wide("ab", "abcd")
