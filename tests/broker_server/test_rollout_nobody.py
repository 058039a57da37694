"""A rollout whose canaries are all gone: a release without a cohort would be everyone's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker_server import clock
from broker_server.config import RolloutConfig
from broker_server.rollout.desk import Desk as OrderDesk
from broker_server.rollout.machine import Abort, Gone
from broker_server.rollout.orders import Order
from broker_server.rollout.release import Rollout
from compression.records import dumps
from tests.broker_server.test_intake import NAMES
from tests.broker_server.test_rollout_resume import Servers


def without_canary(servers: Servers) -> Rollout:
    """Version 2 was offered to a canary alone, which was revoked since."""
    plan = RolloutConfig(canary="pi-1", stages=(), observe_s=1000.0)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    for version in (1, 2):
        rollout.registry.add(servers.model(version))
    servers.desk.stages.ledger.set_fact("model_current", "1")
    rollout.start(servers.model(2), frozenset(NAMES))
    rollout.feed(Gone("pi-1"))
    assert rollout.at_work is not None and rollout.at_work.phase == "paused"
    return rollout


def test_it_is_not_offered_to_everyone_while_a_device_is_told_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers(tmp_path)
    rollout = without_canary(servers)
    rollout.store.give_order(dumps(Order(kind="pin", device="pi-2", version=1)).decode(), 1.0)
    OrderDesk(rollout).take_orders(frozenset(NAMES))
    later = clock.now() + 11.0
    monkeypatch.setattr("broker_server.clock.now", lambda: later)
    assert rollout.busy(frozenset(NAMES))
    rollout.tick(frozenset(NAMES))
    assert servers.publisher.retained is not None and servers.publisher.retained.cohort == ("pi-1",)


def test_its_end_sends_nobody_back(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    rollout = without_canary(servers)
    rollout.feed(Abort("somebody said so"))
    assert rollout.state is not None and rollout.state.phase == "rolled-back"
    assert servers.publisher.retained is None  # and who joins later finds none
    rollout.tick(frozenset(NAMES))
    assert servers.publisher.retained is None
    assert not rollout.busy(frozenset())
