"""The order in which the server's loop sees to what came and to what only time brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker_server import clock, reception
from broker_server import server as loop
from broker_server.broker.base import Broker
from broker_server.config import ModelConfig, RoundsConfig, ServerConfig
from broker_server.records import RoundRecord
from broker_server.report.observer import NullObserver
from broker_server.results import SETUP_BYTES
from broker_server.rounds.machine import CloseStage, Command, Event, Reported, RunState, Stage
from broker_server.server import Server
from edge_client.session.address import BrokerAddress
from edge_client.session.mqtt import Incoming
from edge_client.wire.frame import encode
from edge_client.wire.rounds import Result
from edge_client.wire.topics import MESSAGE, Topics
from provisioning.pki.signing import create_signing_key

DEADLINE_S = 30.0
NAMES = ("pi-1", "pi-2", "pi-3")


class Nowhere(Broker):
    """A broker that nobody connects to."""

    kind = "external"

    def start(self) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    def restart(self) -> None:
        """Nothing."""

    def alive(self) -> bool:
        return True

    def describe(self) -> str:
        return "nowhere"

    def server_address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", 1)

    def device_address(self, name: str) -> BrokerAddress:
        return self.server_address()


class Bench:
    """A server at work on the first round, a clock set by hand, and results that need no check."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.now = 1000.0
        self.commands: list[Command] = []
        if not (folder / "keys").exists():
            create_signing_key(folder / "keys")
        rounds = RoundsConfig(rounds=2, quorum=2, wait_for=3, deadline_s=DEADLINE_S)
        model = ModelConfig(classes=("a", "b"))
        state, keys = str(folder / "state"), str(folder / "keys")
        config = ServerConfig(fleet="f", state=state, keys=keys, model=model, rounds=rounds)
        self.server = Server(config, Nowhere(), NullObserver())
        patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.reception = self.server._reception
        patch.setattr(self.server, "_reception", SimpleNamespace(take=self._take))
        patch.setattr(self.server, "_carry_out", self.commands.append)
        cohort = frozenset(NAMES)
        self.server._state = replace(
            self.server._state, phase="working", since=self.now, cohort=cohort, online=cohort
        )
        self.server._tick_at = self.now

    def _take(self, incoming: Incoming, state: RunState) -> list[Event]:
        return [Reported(incoming.topic)]

    def comes(self, device: str) -> None:
        """A result, now."""
        assert self.server._session._inbox.put(Incoming(device, b"", False, lambda: None, at=self.now))

    def busy(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """The server does something that takes so long."""
        meanwhile()
        self.now += seconds

    def next(self) -> Bench:
        """The server is started again."""
        self.server.stages.ledger.close()
        return Bench(self.folder, self.patch)

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.now += 0.001
            self.server._turn()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_what_came_while_the_server_evaluated_is_seen_before_the_deadline_is(bench: Bench) -> None:
    def results() -> None:
        for device in NAMES:
            bench.comes(device)

    bench.server._later.append(lambda: bench.busy(2 * DEADLINE_S, results))
    bench.turn(1 + len(NAMES))
    (closed,) = bench.commands
    assert isinstance(closed, CloseStage)
    assert (closed.devices, closed.dropped) == (NAMES, {})


def test_a_deadline_passes_while_nothing_comes(bench: Bench) -> None:
    bench.comes("pi-1")
    bench.comes("pi-2")
    bench.turn(3)
    bench.now += DEADLINE_S
    bench.turn(1)
    (closed,) = bench.commands
    assert isinstance(closed, CloseStage)
    assert closed.dropped == {"pi-3": "late"}


def test_time_is_looked_at_however_much_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.turn(1)
    looks: list[float] = []
    monkeypatch.setattr(bench.server._rollout, "tick", lambda _online: looks.append(bench.now))
    for _ in range(1000):
        bench.comes("pi-1")
        bench.turn(1)
    assert 9 <= len(looks) <= 10


def test_a_result_that_waited_for_the_server_came_when_it_came_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(clock, "now", lambda: 5000.0)
    monkeypatch.setattr(reception, "time", SimpleNamespace(monotonic=lambda: 160.0))
    monkeypatch.setattr(bench.server._intake, "on_result", lambda *given: seen.extend(given))
    result = Result(task=1, status="done")
    topic = Topics("f").up("pi-1", MESSAGE)
    bench.reception.take(Incoming(topic, encode(result), False, lambda: None, at=100.0), bench.server._state)
    assert seen == ["pi-1", result, b"", 4940.0]


def test_what_devices_fetch_once_a_run_is_counted_over_a_restart(bench: Bench) -> None:
    stage = CloseStage(Stage("statistics"), 1, NAMES, {})
    bench.server._publisher.setup_bytes = 500
    bench.server._finish(stage, None)
    again = bench.next()
    again.server._publisher.setup_bytes += 20  # of a device that came later
    again.server._finish(stage, None)
    assert again.server.stages.ledger.fact(SETUP_BYTES) == "520"


class Killed(BaseException):
    """The process ends here."""


def test_who_was_not_in_a_round_is_written_down_before_its_evaluation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_record: object) -> None:
        raise Killed

    monkeypatch.setattr(bench.server.stages, "finish", killed)
    command = CloseStage(Stage("train", 1), 1, ("pi-1", "pi-2"), {"pi-3": "late"})
    with pytest.raises(Killed):
        bench.server._finish(command, None)
    (found,) = bench.server.stages.ledger.incidents()
    assert (found.who, found.what) == ("pi-3", "not in train of round 1: late")


@pytest.mark.parametrize("behind", [True, False])
def test_a_round_that_a_killed_server_did_not_evaluate_is_told_of_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    told: list[int] = []
    record = RoundRecord(round=7, version=7, started=0.0, seconds=1.0, clients={}, dropped={})
    monkeypatch.setattr(bench.server.stages, "catch_up", lambda: record if behind else None)
    monkeypatch.setattr(
        bench.server._observer, "round_finished", lambda event: told.append(event.figures.round)
    )
    bench.server._catch_up()
    assert told == ([7] if behind else [])
