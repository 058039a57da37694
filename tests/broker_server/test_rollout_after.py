"""A model that does badly once its rollout is over: people hear of it, and a fleet may go back by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from broker_server.config import AT_ONCE
from broker_server.look import FleetView
from broker_server.look_commands import _status_text
from broker_server.rollout.after_switch import doing_badly
from broker_server.rollout.desk import Desk as OrderDesk
from broker_server.rollout.machine import Promote, RolloutState
from broker_server.rollout.orders import Order
from broker_server.rollout.release import Rollout
from compression.records import dumps
from edge_client.wire.rollout import ModelHealth, Release
from tests.broker_server.test_intake import NAMES
from tests.broker_server.test_rollout_resume import ONLINE, Killed, Servers, said

GOOD = ModelHealth(version=3, accuracy=0.9, examples=100)
WORSE = replace(GOOD, accuracy=0.7)


def complete(tmp_path: Path, afterwards: Literal["warn", "rollback"]) -> tuple[Servers, Rollout]:
    """Version 3 is the fleet's and on all three devices, with 0.9 at each gate; one in three may do badly."""
    servers = Servers(tmp_path)
    plan = replace(AT_ONCE, max_failed=0.4, afterwards=afterwards)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    rollout.tick(ONLINE)
    for version in (1, 2, 3):
        rollout.registry.add(servers.model(version))
    rollout.start(servers.model(3), ONLINE)
    for device in NAMES:
        rollout.on_report(device, replace(said(rollout, "activated"), accuracy=0.9))
    rollout.feed(Promote())
    assert rollout.current == 3 and rollout.at_work is None
    return servers, rollout


def incidents(servers: Servers) -> list[tuple[str, str]]:
    return [(found.who, found.what) for found in servers.desk.stages.ledger.incidents()]


BADLY = "model 3 does badly by now: accuracy 0.700 by now, 0.900 at the gate"


def test_one_incident_each_time_that_it_begins_to_do_badly(tmp_path: Path) -> None:
    servers, rollout = complete(tmp_path, "warn")
    for health in (GOOD, WORSE, WORSE):
        rollout.on_health("pi-1", health)
    assert incidents(servers) == [("pi-1", BADLY)]
    servers.next().on_health("pi-1", WORSE)  # a restarted server has said so, too
    assert len(incidents(servers)) == 1
    for health in (GOOD, WORSE):
        rollout.on_health("pi-1", health)
    assert len(incidents(servers)) == 2
    rollout.on_health("pi-2", ModelHealth(version=0, problem="no whole model"))
    assert incidents(servers)[2][0] == "pi-2"
    rollout.on_health("pi-3", replace(WORSE, version=2))  # it should have another one, and is told so
    assert len(incidents(servers)) == 3


def test_only_a_warning_however_many_they_are(tmp_path: Path) -> None:
    _, rollout = complete(tmp_path, "warn")
    for device in NAMES:
        rollout.on_health(device, WORSE)
    assert rollout.current == 3


def test_status_names_those_who_do_badly(tmp_path: Path) -> None:
    servers, rollout = complete(tmp_path, "warn")
    config, ledger = servers.desk.config, servers.desk.stages.ledger
    for device, health in zip(NAMES, (WORSE, GOOD, GOOD), strict=True):
        rollout.on_health(device, health)
    why = {"pi-1": "accuracy 0.700 by now, 0.900 at the gate"}
    status = FleetView(config, ledger, running=True).status()
    assert (status["model"], status["doing_badly"]) == (3, why)
    text = _status_text(json.loads(json.dumps(status)))
    assert "model 3 answers on the devices\nwarning: it does badly on pi-1: accuracy 0.700 by now" in text
    rollout.on_health("pi-1", GOOD)
    assert FleetView(config, ledger, running=True).status()["doing_badly"] == {}


def test_more_than_the_threshold_take_the_model_back(tmp_path: Path) -> None:
    servers, rollout = complete(tmp_path, "rollback")
    rollout.on_health("pi-1", WORSE)
    assert rollout.current == 3
    rollout.on_health("pi-2", WORSE)
    assert rollout.current == 2
    back = servers.publisher.retained
    assert back is not None and (back.version, back.rollback) == (2, True) and rollout.busy(ONLINE)
    who, what = incidents(servers)[-1]
    assert who == "model 3" and "2 of 3 devices do badly with it by now; pi-1: accuracy 0.700" in what
    rollout.on_health("pi-3", replace(WORSE, version=2))  # what it goes back to is not taken back, too
    assert rollout.current == 2
    [_, ended] = rollout.store.rollouts(RolloutState)
    assert (ended.phase, ended.back_to) == ("rolled-back", 2)


def test_what_was_said_before_another_rollout_of_it_does_not_count(tmp_path: Path) -> None:
    servers, rollout = complete(tmp_path, "rollback")
    for device in ("pi-1", "pi-2"):
        rollout.on_health(device, WORSE)
    rollout.start(servers.model(3), ONLINE)  # their examples are put right: `models promote 3`
    for device in NAMES:
        rollout.on_report(device, replace(said(rollout, "activated"), accuracy=0.9))
    rollout.feed(Promote())
    assert rollout.current == 3
    assert doing_badly(servers.desk.config, servers.desk.stages.ledger, rollout.store, 3) == {}
    rollout.on_health("pi-3", WORSE)
    assert rollout.current == 3
    rollout.on_health("pi-1", WORSE)
    assert rollout.current == 2


def test_killed_before_that_rollback_was_published(tmp_path: Path) -> None:
    servers, rollout = complete(tmp_path, "rollback")
    rollout.on_health("pi-1", WORSE)
    servers.publisher.killed = True
    with pytest.raises(Killed):
        rollout.on_health("pi-2", WORSE)
    servers.publisher.killed = False
    second = servers.next()
    second.tick(frozenset())
    last = second.store.last_rollout(RolloutState, Release)
    assert last is not None and servers.publisher.retained == last[2] and last[2].rollback


def test_a_pinned_device_is_neither_counted_nor_taken_back(tmp_path: Path) -> None:
    _, rollout = complete(tmp_path, "rollback")
    rollout.store.give_order(dumps(Order(kind="pin", device="pi-1", version=3)).decode(), 1.0)
    OrderDesk(rollout).take_orders(ONLINE)
    rollout.on_health("pi-1", WORSE)
    assert rollout.current == 3
    rollout.on_health("pi-2", WORSE)  # one of the two that are not pinned
    assert rollout.current == 2
    assert rollout.state is not None and rollout.state.offered == ("pi-2", "pi-3")


def test_a_first_model_stays_with_a_warning(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    plan = replace(AT_ONCE, afterwards="rollback", max_failed=0.0)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    rollout.tick(ONLINE)
    first = replace(servers.model(3), parent=0)
    rollout.registry.add(first)
    rollout.start(first, ONLINE)
    for device in NAMES:
        rollout.on_report(device, replace(said(rollout, "activated"), accuracy=0.9))
    rollout.feed(Promote())
    rollout.on_health("pi-1", WORSE)
    assert rollout.current == 3 and incidents(servers) == [("pi-1", BADLY)]
