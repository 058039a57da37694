"""A server that was killed in a rollout, or before it: the next one goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker_server import clock
from broker_server.config import AT_ONCE
from broker_server.report.observer import NullObserver
from broker_server.rollout.machine import RolloutState
from broker_server.rollout.registry import ModelRecord
from broker_server.rollout.release import Rollout
from edge_client.session.blobs import BlobStore
from edge_client.wire.messages import Release
from edge_client.wire.signer import Signer
from tests.broker_server.test_intake import NAMES, Desk
from tests.edge_client.agent_cases import release

DAY_S = 86_400.0
ONLINE = frozenset(NAMES)


class Silent:
    """A publisher that nobody hears."""

    def announce(self, _release: Release) -> None: ...

    def tell(self, _device: str, _message: object) -> None: ...

    def release(self, _release: Release, *, broadcast: bool) -> None: ...


class Servers:
    """One server after the other, over one ledger."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder, rollout=AT_ONCE)
        self.models = BlobStore(folder / "models")
        self.models.put(b"a model")
        self.signer = Signer.create(folder / "key")

    def next(self) -> Rollout:
        stages = self.desk.stages
        return Rollout(
            self.desk.config,
            stages,
            self.models,
            Silent(),
            NullObserver(),
            self.signer,  # type: ignore[arg-type]
        )

    def model(self, version: int) -> ModelRecord:
        weights = self.desk.stages.versions.reference()
        if version == 1:  # of other weights than the run's newest
            weights = replace(weights, digest="0" * 64)
        made = replace(release(version), fleet="f", weights=weights)
        return ModelRecord(version, 0, 1.0, "", "", {}, made)


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


def test_killed_between_making_a_model_and_rolling_it_out(servers: Servers) -> None:
    first = servers.next()
    first.registry.add(servers.model(1))
    first.start(servers.model(1), ONLINE)  # somebody pushed it before the rounds were over
    first.registry.add(servers.model(2))
    second = servers.next()
    second.begin(ONLINE)
    assert second.state is not None and second.state.version == 2
    third = servers.next()
    third.begin(ONLINE)  # and only once
    assert [state.version for state in third.store.rollouts(RolloutState)] == [1, 2]


def test_a_rollout_that_began_in_the_future_comes_to_its_end(servers: Servers) -> None:
    first = servers.next()
    first.registry.add(servers.model(2))
    first.start(servers.model(2), ONLINE)
    assert first.state is not None
    tomorrow = replace(first.state, phase="observing", since=clock.now() + DAY_S)
    first.store.update_rollout(1, tomorrow)  # as a server with another clock would have written it
    second = servers.next()
    second.tick(frozenset())
    assert second.state is not None and second.state.phase == "complete"
