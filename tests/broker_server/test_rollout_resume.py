"""A server that was killed in a rollout, or before it: the next one goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from broker_server import clock
from broker_server.config import AT_ONCE, RolloutConfig
from broker_server.report.observer import NullObserver
from broker_server.rollout.desk import Desk as OrderDesk
from broker_server.rollout.machine import Abort, Promote, RolloutState, Taken
from broker_server.rollout.orders import Order
from broker_server.rollout.registry import ModelRecord
from broker_server.rollout.release import Rollout
from broker_server.rollout.standing import CURRENT
from compression.records import dumps
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import SessionError
from edge_client.wire.rollout import ModelHealth, Release, ReleaseReport
from edge_client.wire.signer import Signer
from tests.broker_server.test_intake import NAMES, Desk, hello
from tests.edge_client.agent_cases import release

DAY_S = 86_400.0
ONLINE = frozenset(NAMES)


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


class Silent:
    """A publisher that nobody hears, and in which the server may be killed."""

    killed = False
    connected = True

    def __init__(self) -> None:
        self.retained: Release | None = None

    def withdraw_release(self) -> None:
        if not self.connected:
            raise SessionError("not connected")
        self.retained = None

    def announce(self, _release: Release) -> None: ...

    def tell(self, _device: str, _message: object) -> None: ...

    def release(self, release: Release, *, broadcast: bool) -> None:
        if self.killed:
            raise Killed
        if not self.connected:
            raise SessionError("not connected")
        self.retained = release


class Servers:
    """One server after the other, over one ledger."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder, rollout=AT_ONCE)
        self.models = BlobStore(folder / "models")
        self.models.put(b"a model")
        self.signer = Signer.create(folder / "key")
        self.publisher = Silent()

    def next(self) -> Rollout:
        stages = self.desk.stages
        return Rollout(
            self.desk.config,
            stages,
            self.models,
            self.publisher,  # type: ignore[arg-type]
            NullObserver(),
            self.signer,
        )

    def model(self, version: int) -> ModelRecord:
        weights = self.desk.stages.versions.reference()
        if version == 1:  # of other weights than the run's newest
            weights = replace(weights, digest="0" * 64)
        made = replace(release(version), fleet="f", weights=weights)
        return ModelRecord(version, version - 1, 1.0, "", "", {}, made)


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


def test_an_order_that_a_kill_interrupts_is_carried_out_once(servers: Servers) -> None:
    first = servers.next()
    for version in (1, 2, 3):
        first.registry.add(servers.model(version))
    servers.desk.stages.ledger.set_fact(CURRENT, "3")
    first.store.give_order(dumps(Order(kind="rollback")).decode(), 1.0)
    servers.publisher.killed = True
    with pytest.raises(Killed):
        OrderDesk(first).take_orders(ONLINE)
    servers.publisher.killed = False
    second = servers.next()
    OrderDesk(second).take_orders(ONLINE)
    assert second.current == 2  # and not 1
    assert second.store.open_orders() == {}


def test_a_rollout_is_complete_together_with_its_version(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = servers.next()
    first.registry.add(servers.model(2))
    first.start(servers.model(2), ONLINE)
    keep = first._ledger.set_fact

    def killed_at_the_version(name: str, value: str) -> None:
        if name == CURRENT:
            raise Killed
        keep(name, value)

    monkeypatch.setattr(first._ledger, "set_fact", killed_at_the_version)
    with pytest.raises(Killed):
        for device in NAMES:
            first.feed(Taken(device))
    monkeypatch.undo()
    second = servers.next()
    for device in NAMES:  # the last word had no acknowledgement: it comes again
        second.feed(Taken(device))
    assert second.state is not None and second.state.phase == "complete"
    assert second.current == 2


def test_an_order_that_is_refused_leaves_nothing_behind(servers: Servers) -> None:
    rollout = servers.next()
    for version in (1, 2):
        rollout.registry.add(servers.model(version))
    rollout.start(servers.model(2), ONLINE)
    rollout.store.give_order(dumps(Order(kind="rollback", version=1)).decode(), 1.0)
    OrderDesk(rollout).take_orders(ONLINE)
    assert "refused" in (rollout.store.answer(1) or "")  # it would go back to none, and 1 was asked for
    assert rollout.at_work is not None and rollout.at_work.version == 2


def test_what_devices_claim_to_have_does_not_use_the_numbers_up(servers: Servers) -> None:
    ledger = servers.desk.stages.ledger
    ledger.keep_hello("pi-1", replace(hello(), model_version=1 << 53), 1.0)
    ledger.keep_hello("pi-2", replace(hello(), model_version=7), 1.0)  # of a ledger that was lost
    assert servers.next().next_version() == 8


def test_what_a_device_says_of_other_models_is_not_kept(servers: Servers) -> None:
    rollout = servers.next()
    rollout.registry.add(servers.model(2))
    rollout.start(servers.model(2), ONLINE)
    offered = rollout.store.last_rollout(RolloutState, Release)
    assert offered is not None
    rollout.on_health("pi-1", ModelHealth(version=5))
    rollout.on_report(
        "pi-1", ReleaseReport(order=offered[2].order, version=5, outcome="activated", reason="")
    )
    assert rollout.store.healths(5, ModelHealth) == {}
    assert servers.desk.stages.ledger.release_reports(5) == {}


def in_two_waves(servers: Servers) -> Rollout:
    """Version 3 is with its canary, and the fleet's version is 2."""
    plan = RolloutConfig(canary="pi-1", stages=(), observe_s=0.0)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    for version in (1, 2, 3):
        rollout.registry.add(servers.model(version))
    servers.desk.stages.ledger.set_fact(CURRENT, "2")
    rollout.start(servers.model(3), ONLINE)
    return rollout


def test_a_device_that_waits_for_its_wave_is_not_told_anything_newer(servers: Servers) -> None:
    rollout = in_two_waves(servers)
    rollout.on_hello("pi-2", replace(hello(), model_version=1))  # the wave's order would be a replay after it
    assert rollout.store.directive("pi-2", Release) is None


def test_a_canary_that_is_pinned_has_not_failed(servers: Servers) -> None:
    rollout = in_two_waves(servers)
    offered = rollout.store.last_rollout(RolloutState, Release)
    assert offered is not None
    order = offered[2].order
    rollout.feed(Taken("pi-1"))
    rollout.store.give_order(dumps(Order(kind="pin", device="pi-1", version=1)).decode(), 1.0)
    OrderDesk(rollout).take_orders(ONLINE)
    assert rollout.store.directive("pi-1", Release) is not None
    rollout.on_report("pi-1", ReleaseReport(order=order, version=3, outcome="refused", reason="a replay"))
    assert rollout.at_work is not None and rollout.at_work.failed == {}


# ---- a device that does badly after the switch, while the rollout goes on ----


def taken_by_all(servers: Servers) -> Rollout:
    """Version 2 is the fleet's, 3 is being observed on all three devices, of which one may fail."""
    plan = RolloutConfig(canary="100%", stages=(), observe_s=1000.0, max_failed=0.4)
    servers.desk.config = replace(servers.desk.config, rollout=plan)
    rollout = servers.next()
    for version in (1, 2, 3):
        rollout.registry.add(servers.model(version))
    servers.desk.stages.ledger.set_fact(CURRENT, "2")
    rollout.start(servers.model(3), ONLINE)
    for device in NAMES:
        rollout.on_report(device, said(rollout, "activated"))
    return rollout


def said(rollout: Rollout, outcome: Literal["activated", "refused"]) -> ReleaseReport:
    last = rollout.store.last_rollout(RolloutState, Release)
    assert last is not None
    release = last[2]
    return ReleaseReport(
        order=release.order,
        version=release.version,
        outcome=outcome,
        reason="",
        active_version=release.version,
    )


BAD = ModelHealth(version=3, problem="it crashes")


def sent_back(rollout: Rollout, device: str) -> Release:
    told = rollout.store.directive(device, Release)
    assert told is not None and told.rollback and told.version == 2 and told.cohort == (device,)
    return told


@pytest.mark.parametrize("health", [BAD, ModelHealth(version=0, problem="no whole model")])
def test_one_that_fails_after_the_switch_goes_back_and_the_others_keep_it(
    servers: Servers, health: ModelHealth
) -> None:
    rollout = taken_by_all(servers)
    rollout.on_health("pi-1", health)
    told = sent_back(rollout, "pi-1")
    assert rollout.at_work is not None and rollout.at_work.sent_back == ("pi-1",)
    assert "it does not answer" in rollout.at_work.failed["pi-1"]
    report = servers.desk.stages.ledger.release_reports(3)["pi-1"]
    assert report.outcome == "refused"
    last = rollout.store.last_rollout(RolloutState, Release)
    assert last is not None and told.order > last[2].order  # or it would be a replay to the device
    assert rollout.busy(ONLINE)
    rollout.on_report("pi-1", said(rollout, "activated"))  # sent again before it heard: nothing new
    assert servers.desk.stages.ledger.release_reports(3)["pi-1"].outcome == "refused"


def test_one_that_does_well_is_heard_and_a_restarted_server_knows(servers: Servers) -> None:
    rollout = taken_by_all(servers)
    rollout.on_health("pi-2", ModelHealth(version=3, accuracy=1.0, examples=4))
    rollout.on_health("pi-3", ModelHealth(version=2))  # of the model before: nothing is known of this one
    state = servers.next().at_work
    assert state is not None and state.heard == ("pi-2",)


def test_one_that_was_sent_back_stays_there_when_the_others_have_it(servers: Servers) -> None:
    rollout = taken_by_all(servers)
    rollout.on_health("pi-1", BAD)
    told = sent_back(rollout, "pi-1")
    back = ReleaseReport(order=told.order, version=2, outcome="rolled-back", reason="back", active_version=2)
    rollout.on_report("pi-1", back)
    assert rollout.at_work is not None
    rollout.feed(Promote(everyone=True))
    assert rollout.current == 3
    known = servers.next()  # and after a restart
    for server in (rollout, known):
        server.on_hello("pi-1", replace(hello(), model_version=2))
        assert sent_back(server, "pi-1") == told


def test_one_that_missed_the_word_is_told_again_by_the_next_server(servers: Servers) -> None:
    rollout = taken_by_all(servers)
    rollout.on_health("pi-1", BAD)
    servers.desk.stages.ledger.connection.execute("DELETE FROM directives")  # killed before it was written
    known = servers.next()
    known.on_hello("pi-1", replace(hello(), model_version=3))
    sent_back(known, "pi-1")
    assert servers.desk.stages.ledger.release_reports(3)["pi-1"].outcome == "refused"


def test_a_word_to_one_device_is_said_anew_after_a_rollout(servers: Servers) -> None:
    """An order from before the fleet's last release would be a replay to it."""
    rollout = servers.next()
    for version in (1, 2, 3):
        rollout.registry.add(servers.model(version))
    servers.desk.stages.ledger.set_fact(CURRENT, "2")
    rollout.on_hello("pi-1", replace(hello(), model_version=1))
    early = rollout.store.directive("pi-1", Release)
    rollout.start(servers.model(3), ONLINE)
    rollout.feed(Abort("no"))
    rollout.on_hello("pi-1", replace(hello(), model_version=1))
    late = rollout.store.directive("pi-1", Release)
    assert early is not None and late is not None and late.version == early.version == 2
    last = rollout.store.last_rollout(RolloutState, Release)
    assert last is not None and early.order < last[2].order < late.order


# ---- killed in a rollback ----


def test_killed_before_the_rollback_was_published(servers: Servers) -> None:
    rollout = taken_by_all(servers)
    servers.publisher.killed = True
    with pytest.raises(Killed):
        rollout.feed(Abort("no"))
    servers.publisher.killed = False
    offer = servers.publisher.retained
    assert offer is not None and (offer.version, offer.rollback) == (3, False)
    second = servers.next()
    assert second.state is not None and second.state.phase == "rolled-back"
    assert second.busy(frozenset())  # and does not end before it is said
    second.tick(frozenset())  # nobody is online: who comes later takes what is retained
    back = servers.publisher.retained
    assert back is not None and (back.version, back.rollback) == (2, True)
    assert sorted(back.cohort) == list(NAMES)
    assert back.order > offer.order
    third = servers.next()  # the same again: devices answer from what they remember
    third.tick(frozenset())
    assert servers.publisher.retained == back


def test_killed_while_a_rollback_was_being_written_down(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without the other would publish the offer again in the rollback's place."""

    def killed(*_: object) -> None:
        raise Killed

    rollout = taken_by_all(servers)
    monkeypatch.setattr(rollout.store, "update_release", killed)
    with pytest.raises(Killed):
        rollout.feed(Abort("no"))
    monkeypatch.undo()
    second = servers.next()
    assert second.at_work is not None and second.at_work.phase == "observing"
    second.feed(Abort("no"))
    assert servers.publisher.retained is not None and servers.publisher.retained.rollback


def test_a_rollback_that_the_broker_did_not_get_is_published_later(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_server.rollout.publication.RETRY_S", 0.0)
    rollout = taken_by_all(servers)
    servers.publisher.connected = False
    rollout.feed(Abort("no"))
    rollout.tick(ONLINE)
    servers.publisher.connected = True
    rollout.tick(ONLINE)
    assert servers.publisher.retained is not None and servers.publisher.retained.rollback


def test_who_was_told_alone_has_answered_the_rollback_too(servers: Servers) -> None:
    """A restarted server finds a device with the wrong model; the retained release is a replay to it then."""
    rollout = taken_by_all(servers)
    rollout.feed(Abort("no"))
    second = servers.next()
    second.tick(ONLINE)
    for device in NAMES:
        assert second.busy(ONLINE)
        told = sent_back(second, device)
        back = ReleaseReport(order=told.order, version=2, outcome="rolled-back", reason="", active_version=2)
        second.on_report(device, back)
    assert not second.busy(ONLINE)


def test_who_has_answered_a_rollback_is_not_awaited_by_the_next_server(servers: Servers) -> None:
    rollout = taken_by_all(servers)
    rollout.feed(Abort("no"))
    last = rollout.store.last_rollout(RolloutState, Release)
    assert last is not None
    for device in NAMES:
        assert rollout.busy(ONLINE)
        back = ReleaseReport(order=last[2].order, version=2, outcome="rolled-back", reason="")
        rollout.on_report(device, back)
    assert not rollout.busy(ONLINE)
    second = servers.next()
    second.tick(frozenset())
    assert not second.busy(frozenset())
