"""A fleet's benchmark as the server leads it: who is asked, who is waited for, and what is written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker_server.config import ModelConfig, RoundsConfig, ServerConfig
from broker_server.fleet_latency import ASK_AGAIN_S, AWAY, SILENT, FleetLatency, measured_files
from broker_server.store.latency import DONE, LatencyOrder, LatencyStore
from broker_server.store.ledger import Ledger
from edge_client.wire.blobs import BlobRef
from edge_client.wire.errors import WireError
from edge_client.wire.latency import LatencyProgress, LatencyReport, LatencyRequest
from edge_client.wire.measurement import MeasurePlan
from edge_client.wire.presence import Health, Hello
from edge_client.wire.summary import DataSummary
from tests.edge_client.measure_cases import measurement

HERE = frozenset({"pi-1", "pi-2"})
GRACE_S = 5.0
FILE = b"a file to be measured"


@dataclass
class FakePublisher:
    """Keeps what it is told."""

    told: list[tuple[str, LatencyRequest]] = field(default_factory=list)
    served: list[BlobRef] = field(default_factory=list)

    def tell(self, device: str, message: LatencyRequest) -> None:
        self.told.append((device, message))

    def serve(self, ref: BlobRef) -> None:
        self.served.append(ref)


class Case:
    """A server's benchmarks with a clock, and the command's side of the ledger."""

    def __init__(self, folder: Path, ledger: Ledger, patch: pytest.MonkeyPatch) -> None:
        self.config = ServerConfig(
            fleet="ward",
            state=str(folder),
            model=ModelConfig(name="small_mlp", kind="table"),
            rounds=RoundsConfig(grace_s=GRACE_S),
        )
        self.ledger, self.store = ledger, LatencyStore(ledger.connection)
        self.now, self.set_by = 1_000_000.0, 0.0  # seconds by which somebody has set the machine's clock
        patch.setattr("broker_server.fleet_latency.clock.now", lambda: self.now)
        patch.setattr("broker_server.fleet_latency.clock.wall", lambda: self.now + self.set_by)
        self.restart()

    def restart(self) -> None:
        self.publisher = FakePublisher()
        self.latency = FleetLatency(self.config, self.ledger, self.publisher)  # type: ignore[arg-type]

    def join(self, *devices: str) -> None:
        for device in devices:
            self.ledger.keep_hello(device, hello(), self.now)

    def order(self, **fields: Any) -> int:
        return self.store.give(LatencyOrder(wait_s=60.0, **fields), self.now + self.set_by)

    def tick(self, online: frozenset[str] = HERE, seconds: float = 1.0) -> list[tuple[str, LatencyRequest]]:
        """Let time pass; who is asked now."""
        self.now += seconds
        self.publisher.told.clear()
        self.latency.tick(online)
        return list(self.publisher.told)

    def says(self, device: str, number: int, state: str, reason: str = "") -> None:
        progress = LatencyProgress(number=number, state=state, reason=reason)  # type: ignore[arg-type]
        self.latency.on_progress(device, progress)

    def answers(self, device: str, number: int, digest: str = "0" * 64) -> LatencyReport:
        report = LatencyReport(number=number, outcome="measured", measurement=measurement(digest))
        self.latency.on_report(device, report)
        return report


def hello() -> Hello:
    return Hello(
        session="0" * 16,
        version="1",
        architecture="aarch64",
        board="",
        python="3.11",
        runtime="ai-edge-litert 2.3.0",
        cores=4,
        memory_mb=4000.0,
        data=DataSummary(kind="table", counts={}, validation_examples=0, columns=(), skipped=0),
        health=Health(peak_rss_mb=50.0, free_memory_mb=1000.0, free_disk_mb=1000.0),
    )


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        yield Case(tmp_path, ledger, monkeypatch)


def test_every_device_is_asked_and_it_is_over_when_all_have_answered(case: Case) -> None:
    case.join(*HERE)
    number = case.order(plan=MeasurePlan(threads=2))
    asked = case.tick()
    request = LatencyRequest(
        fleet="ward", number=number, expires=1_000_060, left_s=59, model=None, plan=MeasurePlan(threads=2)
    )
    assert asked == [("pi-1", request), ("pi-2", request)]
    assert case.latency.busy
    first, second = case.answers("pi-1", number), case.answers("pi-2", number)
    assert case.tick() == []
    assert (case.store.answer(number), case.latency.busy) == (DONE, False)
    assert case.store.reports(number) == {"pi-1": first, "pi-2": second}


def test_only_those_that_are_named_are_asked(case: Case) -> None:
    case.join(*HERE)
    case.order(devices=("pi-2",))
    assert [device for device, _ in case.tick()] == ["pi-2"]


def test_a_device_is_asked_again_until_it_answers(case: Case) -> None:
    case.join("pi-1")
    number = case.order()
    assert len(case.tick()) == 1
    assert case.tick() == []
    assert len(case.tick(seconds=ASK_AGAIN_S)) == 1
    case.says("pi-1", number, "waiting", "it has a task: train")
    assert case.store.states(number) == {"pi-1": ("waiting", "it has a task: train")}
    case.tick(seconds=60.0)  # its time is up
    assert case.store.answer(number) == DONE
    assert case.store.states(number) == {"pi-1": ("waiting", "it has a task: train")}


def test_who_is_there_and_says_nothing_gets_a_reason(case: Case) -> None:
    case.join("pi-1")
    number = case.order()
    case.tick()
    case.tick(seconds=61.0)
    assert case.store.states(number) == {"pi-1": ("silent", SILENT)}


def test_who_is_away_is_waited_for_no_longer_than_the_grace(case: Case) -> None:
    case.join(*HERE)
    number = case.order()
    assert [device for device, _ in case.tick(frozenset({"pi-1"}))] == ["pi-1"]
    case.answers("pi-1", number)
    case.tick(frozenset({"pi-1"}), seconds=GRACE_S - 1)
    assert case.store.answer(number) is None
    case.tick(frozenset({"pi-1"}), seconds=2.0)
    assert case.store.answer(number) == DONE
    assert case.store.states(number)["pi-2"] == ("away", AWAY)


def test_who_leaves_and_comes_back_is_asked_again(case: Case) -> None:
    case.join("pi-1")
    number = case.order()
    case.tick()
    case.says("pi-1", number, "measuring")
    case.tick(frozenset())
    assert case.store.states(number) == {"pi-1": ("away", "it left while measuring")}
    assert len(case.tick()) == 1
    assert case.store.states(number) == {"pi-1": ("", "")}


def test_a_file_is_served_while_it_is_measured_and_removed_after_that(case: Case) -> None:
    case.join("pi-1")
    ref = measured_files(case.config).put(FILE)
    number = case.order(model=ref)
    case.tick()
    assert case.publisher.served == [ref]
    with pytest.raises(WireError, match="of another file"):
        case.answers("pi-1", number)
    case.answers("pi-1", number, ref.digest)
    case.tick()
    assert case.store.answer(number) == DONE
    assert not measured_files(case.config).has(ref)


def test_a_file_that_the_next_order_needs_too_is_kept(case: Case) -> None:
    case.join("pi-1")
    ref = measured_files(case.config).put(FILE)
    first, _ = case.order(model=ref), case.order(model=ref)
    case.tick()
    case.answers("pi-1", first, ref.digest)
    case.tick()
    assert measured_files(case.config).has(ref)


def test_a_file_that_a_later_order_needs_is_kept_through_another_order(case: Case) -> None:
    case.join("pi-1")
    ref = measured_files(case.config).put(FILE)
    first, second, third = case.order(model=ref), case.order(), case.order(model=ref)
    for number, digest in ((first, ref.digest), (second, "0" * 64), (third, ref.digest)):
        case.tick()
        case.answers("pi-1", number, digest)
        case.tick()
        assert case.store.answer(number) == DONE
    assert not measured_files(case.config).has(ref)


def test_the_file_of_an_order_that_was_never_taken_up_is_removed(case: Case) -> None:
    case.join("pi-1")
    late = measured_files(case.config).put(FILE)
    case.order(model=late)
    case.tick(seconds=61.0)
    assert not measured_files(case.config).has(late)
    called_off = measured_files(case.config).put(FILE)
    case.store.end(case.order(model=called_off), "called off")  # while no server ran
    case.restart()
    assert not measured_files(case.config).has(called_off)


@pytest.mark.parametrize("outcome", ["measured", "refused"])
def test_figures_come_with_success_and_with_nothing_else(case: Case, outcome: Any) -> None:
    case.join("pi-1")
    number = case.order()
    case.tick()
    found = None if outcome == "measured" else measurement()
    with pytest.raises(WireError, match="no or needless figures"):
        case.latency.on_report("pi-1", LatencyReport(number=number, outcome=outcome, measurement=found))


def test_the_first_answer_counts_and_strangers_and_old_answers_do_not(case: Case) -> None:
    case.join(*HERE)
    number = case.order(devices=("pi-1",))
    case.tick()
    case.answers("pi-2", number)
    case.answers("pi-1", number - 1)
    assert case.store.reports(number) == {}
    first = case.answers("pi-1", number)
    case.latency.on_report("pi-1", LatencyReport(number=number, outcome="failed", reason="later"))
    case.says("pi-1", number, "measuring")
    assert case.store.reports(number) == {"pi-1": first}


def test_orders_that_cannot_be_carried_out_say_why(case: Case) -> None:
    for fields, why in (
        ({}, "no device has ever joined"),
        ({"devices": ("pi-9",)}, "there is no device 'pi-9' in this fleet; there are pi-1"),
        ({"model": BlobRef.of(FILE)}, "the file is gone"),
    ):
        number = case.order(**fields)
        case.tick()
        assert (case.store.answer(number) or "").startswith(why)
        assert not case.latency.busy
        case.join("pi-1")


def test_an_order_whose_time_was_up_before_a_server_came_asks_nobody(case: Case) -> None:
    case.join("pi-1")
    number = case.order()
    assert case.tick(seconds=61.0) == []
    assert case.store.answer(number) == "its time was up before a server came"


@pytest.mark.parametrize("set_by", [-3_600.0, 3_600.0])
def test_a_clock_that_was_set_since_the_server_began_changes_no_waiting(case: Case, set_by: float) -> None:
    case.join("pi-1")
    case.set_by = set_by
    number = case.order()
    ((_, request),) = case.tick()
    assert request.expires == int(1_000_060.0 + set_by)  # devices have the right time
    case.tick(seconds=58.0)
    assert case.store.answer(number) is None
    case.tick(seconds=2.0)
    assert case.store.answer(number) == DONE


def test_an_order_that_is_called_off_is_left_at_once(case: Case) -> None:
    case.join("pi-1")
    number = case.order()
    case.tick()
    case.store.end(number, "called off")
    assert case.tick(seconds=ASK_AGAIN_S) == []
    assert not case.latency.busy
    assert case.store.answer(number) == "called off"


def test_a_server_that_was_killed_goes_on_with_those_who_have_not_answered(case: Case) -> None:
    case.join(*HERE)
    number = case.order()
    case.tick()
    case.answers("pi-1", number)
    case.restart()
    assert [device for device, _ in case.tick()] == ["pi-2"]
    case.answers("pi-2", number)
    case.tick()
    assert set(case.store.reports(number)) == HERE


def test_numbers_only_grow(case: Case) -> None:
    first = case.order()
    assert first == int(case.now)
    assert case.order() == first + 1
    case.now -= 1_000  # somebody has set the clock back
    assert case.order() == first + 2
