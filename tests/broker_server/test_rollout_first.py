"""A fleet's first version, which is bad: nobody goes on answering with it, and nobody gets it any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.config import AT_ONCE, RolloutConfig
from broker_server.rollout.machine import Abort
from broker_server.rollout.release import Rollout
from edge_client.wire.rollout import ModelHealth, Release, ReleaseReport
from tests.broker_server.test_intake import NAMES, hello
from tests.broker_server.test_rollout_resume import ONLINE, Servers, said


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


def begun(servers: Servers, plan: RolloutConfig) -> Rollout:
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    rollout.tick(ONLINE)
    rollout.registry.add(servers.model(2))
    rollout.start(servers.model(2), ONLINE)
    return rollout


def first_version_fails(servers: Servers) -> Rollout:
    """One wave, in which everybody may have it: the offer that is retained names nobody. One has taken it."""
    rollout = begun(servers, replace(AT_ONCE, max_failed=0.0))
    assert servers.publisher.retained is not None and servers.publisher.retained.cohort == ()
    rollout.on_report("pi-2", said(rollout, "activated"))
    rollout.on_report("pi-1", said(rollout, "refused"))
    assert rollout.state is not None and rollout.state.phase == "rolled-back"
    return rollout


def withdrawal(servers: Servers) -> Release:
    """Whom the retained release tells to have no model."""
    retained = servers.publisher.retained
    assert retained is not None and retained.withdraws and retained.sources == ()
    assert retained.model == servers.model(2).release.model and retained.watch.seconds == 0.0
    return retained


def test_it_is_taken_back_from_those_who_have_it_and_offered_to_nobody(servers: Servers) -> None:
    rollout = first_version_fails(servers)
    told = withdrawal(servers)
    assert sorted(told.cohort) == list(NAMES)  # who joins later is not named
    rollout.tick(ONLINE)
    assert withdrawal(servers) == told and rollout.busy(ONLINE)
    for device in NAMES:
        gone = ReleaseReport(order=told.order, version=0, outcome="rolled-back", reason="no model is active")
        rollout.on_report(device, gone)
    assert not rollout.busy(ONLINE)
    reports = servers.desk.stages.ledger.release_reports(2)
    assert {report.outcome for report in reports.values()} == {"rolled-back"}
    rollout.on_hello("pi-9", hello())
    assert rollout.store.directive("pi-9", Release) is None
    [incident] = servers.desk.stages.ledger.incidents()
    assert incident.who == "model 2" and "1 of 3 devices failed" in incident.what
    assert incident.remedy == "there is none before it: no model answers on the devices that had it"


def test_what_could_not_be_published_is_published_by_the_next_server(servers: Servers) -> None:
    rollout = begun(servers, replace(AT_ONCE, max_failed=0.0))
    servers.publisher.connected = False
    rollout.on_report("pi-1", said(rollout, "refused"))
    rollout.tick(ONLINE)
    assert servers.publisher.retained is not None and not servers.publisher.retained.rollback
    servers.publisher.connected = True
    servers.next().tick(frozenset())
    withdrawal(servers)


def test_one_that_was_away_is_told_when_it_is_back(servers: Servers) -> None:
    first_version_fails(servers)
    later = servers.next()
    later.tick(frozenset())
    later.on_hello("pi-2", replace(hello(), model_version=2))
    told = later.store.directive("pi-2", Release)
    assert told is not None and told.withdraws and told.cohort == ("pi-2",)
    assert told.model == servers.model(2).release.model
    gone = ReleaseReport(order=told.order, version=0, outcome="rolled-back", reason="no model is active")
    later.on_report("pi-2", gone)
    later.on_hello("pi-2", replace(hello(), model_version=0))
    assert later.store.directive("pi-2", Release) == told


def test_a_version_of_a_ledger_that_was_lost_is_left_alone(servers: Servers) -> None:
    rollout = first_version_fails(servers)
    rollout.on_hello("pi-3", replace(hello(), model_version=7))
    assert rollout.store.directive("pi-3", Release) is None


def test_one_that_does_badly_with_it_goes_back_to_none_alone(servers: Servers) -> None:
    rollout = begun(servers, replace(AT_ONCE, observe_s=1000.0, max_failed=0.4))
    for device in NAMES:
        rollout.on_report(device, said(rollout, "activated"))
    rollout.on_health("pi-1", ModelHealth(version=2, problem="it crashes"))
    told = rollout.store.directive("pi-1", Release)
    assert told is not None and told.withdraws
    assert rollout.at_work is not None and rollout.at_work.sent_back == ("pi-1",)
    [incident] = servers.desk.stages.ledger.incidents()
    assert incident.who == "pi-1" and "model 2 does badly: it does not answer" in incident.what


def test_the_version_after_it_is_left_with_the_broker(servers: Servers) -> None:
    rollout = first_version_fails(servers)
    rollout.tick(ONLINE)
    rollout.registry.add(servers.model(3))
    rollout.start(servers.model(3), ONLINE)
    rollout.tick(ONLINE)
    assert servers.publisher.retained is not None and servers.publisher.retained.version == 3
    rollout.feed(Abort("no"))
    rollout.tick(ONLINE)
    assert servers.publisher.retained.withdraws
