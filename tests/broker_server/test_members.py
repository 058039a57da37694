"""Who counts as a device of the fleet: not the revoked, not those that are gone for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker_server import clock
from broker_server.config import RolloutConfig
from broker_server.members import DAY_S, members
from broker_server.rollout.machine import RolloutState
from edge_client.enrolment.keys import new_key, signing_request
from provisioning.pki.authority import FleetCA
from tests.broker_server.test_intake import NAMES, Desk, hello
from tests.broker_server.test_rollout_resume import Servers


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Three devices seen just now, and an authority that has signed for all of them."""
    made = Desk(tmp_path, pki=str(tmp_path / "pki"))
    authority = FleetCA.create(tmp_path / "pki", "f")
    for name in NAMES:
        authority.sign_csr(signing_request(new_key(), name), name)
    with closing(made.stages.ledger):
        yield made


def away(desk: Desk, device: str, days: float) -> None:
    desk.stages.ledger.keep_hello(device, hello(), clock.now() - days * DAY_S)


def test_everyone_counts_until_they_are_away_for_too_long(desk: Desk) -> None:
    ledger, config = desk.stages.ledger, desk.config
    away(desk, "pi-1", config.absent_days - 0.1)
    assert members(ledger, config) == frozenset(NAMES)
    away(desk, "pi-1", config.absent_days + 0.1)
    assert members(ledger, config) == {"pi-2", "pi-3"}
    assert members(ledger, config, present=["pi-1"]) == frozenset(NAMES)  # connected all the while
    away(desk, "pi-1", 0)
    assert members(ledger, config) == frozenset(NAMES)


def test_the_revoked_do_not_count_even_if_they_are_here(desk: Desk) -> None:
    FleetCA.open(Path(desk.config.pki)).revoke("pi-2", now=datetime.now(UTC))
    assert members(desk.stages.ledger, desk.config, present=NAMES) == {"pi-1", "pi-3"}


def test_the_fleet_that_strategies_know_is_those_who_count(desk: Desk) -> None:
    """SCAFFOLD moves its variate by the share of the fleet that took part."""
    assert desk.stages.aggregation._fleet(()).devices == 3
    away(desk, "pi-1", 100)
    away(desk, "pi-2", 100)
    fleet = desk.stages.aggregation._fleet(["pi-2"])  # which has sent a result
    assert (fleet.devices, fleet.examples) == (2, 100)


def test_a_rollout_neither_asks_nor_waits_for_those_who_are_gone(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    plan = RolloutConfig(canary="100%", stages=(), observe_s=0.0)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    away(servers.desk, "pi-3", 100)
    rollout = servers.next()
    rollout.registry.add(servers.model(2))
    rollout.start(servers.model(2), frozenset({"pi-1", "pi-2"}))
    assert rollout.state is not None and sorted(rollout.state.offered) == ["pi-1", "pi-2"]
    away(servers.desk, "pi-2", 100)
    rollout.tick(frozenset({"pi-1"}))
    (state,) = rollout.store.rollouts(RolloutState)
    assert state.offered == ("pi-1",)
