"""Who counts as a device of the fleet: not the revoked, not those that are gone for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker_server import clock
from broker_server.config import RolloutConfig, ServerConfig
from broker_server.members import DAY_S, example_limit, members
from broker_server.rollout.machine import RolloutState
from edge_client.enrolment.keys import new_key, signing_request
from edge_client.wire.rounds import TrainingReport
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
    aggregation = desk.stages.aggregation
    assert aggregation._fleet(aggregation._claims(()), 1000).devices == 3
    away(desk, "pi-1", 100)
    away(desk, "pi-2", 100)
    fleet = aggregation._fleet(aggregation._claims(["pi-2"]), 1000)  # which has sent a result
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


@pytest.mark.parametrize(
    ("claims", "factor", "limit"),
    [
        ([100, 200, 300], 10.0, 2000),
        ([100, 200, 300, 1_000_000], 10.0, 2500),  # one that claims a million weighs as ten ordinary ones
        ([0, 0, 0, 7], 10.0, 70),  # who has none does not vote
        ([500_000] * 3, 10.0, 1_000_000),  # `max_examples` holds all the same
        ([1, 1, 1], 1.5, 2),
        ([], 10.0, 1_000_000),
    ],
)
def test_a_claim_counts_up_to_a_multiple_of_the_usual(claims: list[int], factor: float, limit: int) -> None:
    assert example_limit(claims, ServerConfig(fleet="f", claim_factor=factor)) == limit


def test_a_device_that_claims_a_million_is_not_the_average(desk: Desk) -> None:
    desk.stages.ledger.keep_hello("pi-3", hello(1_000_000), clock.now())
    claims = desk.stages.aggregation._claims(())
    limit = example_limit(claims, desk.config)
    for name in NAMES:
        payload = desk.payload()
        training = TrainingReport(examples=1_000_000, steps=1, loss=0.5, seconds=0.1, base_version=0)
        assert desk.send(name, payload, training=training) is not None
    results = desk.stages.ledger.results(0)
    updates = desk.stages.aggregation._updates(results, 0, limit)
    assert [update.examples for update in updates] == [50, 50, 500]
