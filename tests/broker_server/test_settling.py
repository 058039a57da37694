"""Results that come close together are made durable together, and nothing is said of them before."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from broker_server import clock, settling
from broker_server.rounds.machine import Reported, Rules, RunState, Stage
from broker_server.settling import HELD, Settling
from edge_client.session.mqtt import Incoming
from edge_client.wire.blobs import BlobRef
from tests.broker_server.test_intake import NAMES, SPEC, Desk

RULES = Rules(quorum=2, wait_for=3, wait_s=60.0, deadline_s=100.0, grace_s=10.0)
WORKING = RunState((Stage("train", 1),), phase="working", cohort=frozenset(NAMES))


class Table(Desk):
    """A desk at which results wait for one another."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.settling = Settling(self.intake)
        self.acknowledged: list[int] = []
        self._count = 0

    def take(self, device: str = "", payload: bytes = b"") -> None:
        """A result of a device comes; without one, something else."""
        number, self._count = self._count, self._count + 1
        if device:
            self.intake.on_result(device, self.result(payload), payload, clock.now())
        message = Incoming("topic", payload, False, lambda: self.acknowledged.append(number))
        self.settling.took(message)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_what_waits_is_durable_before_a_receipt_and_receipts_before_acknowledgements(table: Table) -> None:
    table.take()
    for device in ("pi-2", "pi-1"):
        table.take(device, table.payload())
    table.take()
    assert (table.acknowledged, table.sent) == ([0], [])  # what comes after waits, too: in order
    assert table.stages.ledger.results(0) == {}
    assert table.settling.settle() == [Reported("pi-2"), Reported("pi-1")]
    assert list(table.stages.ledger.results(0)) == ["pi-1", "pi-2"]
    assert [device for device, _ in table.sent] == ["pi-2", "pi-1"]
    assert table.acknowledged == [0, 1, 2, 3]
    assert table.settling.settle() == []


def test_a_bad_one_among_them_is_refused_alone(table: Table) -> None:
    table.take("pi-1", b"nonsense")
    table.take("pi-2", table.payload())
    refused, counted = table.settling.settle()
    assert refused.problem and counted == Reported("pi-2")
    assert list(table.stages.ledger.results(0)) == ["pi-2"]
    assert table.stages.ledger.failures(table.task.number).keys() == {"pi-1"}


def test_where_the_ledger_fails_nothing_counts_and_nobody_is_told(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in ("pi-1", "pi-2"):
        table.take(device, table.payload())
    keep = table.stages.ledger.keep_result

    def full(task: int, device: str, *rest: object) -> None:
        if device == "pi-2":
            raise sqlite3.OperationalError("database or disk is full")
        keep(task, device, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(table.stages.ledger, "keep_result", full)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        table.settling.settle()
    assert (table.acknowledged, table.sent, table.stages.ledger.results(0)) == ([], [], {})
    with pytest.raises(ValueError, match="not here"):
        table.stages.payloads.read(BlobRef.of(table.payload()))


def test_nobody_is_waited_for_who_is_not_to_come(table: Table) -> None:
    assert not table.settling.due(WORKING, RULES)
    table.take("pi-1", table.payload())
    assert not table.settling.due(WORKING, RULES)
    assert table.settling.due(replace(WORKING, reported=frozenset({"pi-2", "pi-3"})), RULES)
    assert table.settling.due(WORKING, replace(RULES, enough=1))
    assert table.settling.due(replace(WORKING, reported=frozenset({"pi-2"})), replace(RULES, enough=2))


def test_what_comes_after_them_is_not_held_up(table: Table) -> None:
    table.take("pi-1", table.payload())
    for _ in range(HELD - 2):
        table.take()
    assert not table.settling.due(WORKING, RULES)
    table.take()
    assert table.settling.due(WORKING, RULES)


def test_large_ones_do_not_wait(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = table.payload()
    table.take("pi-1", payload)
    size = len(payload) + 4 * SPEC.parameters
    monkeypatch.setattr(settling, "HELD_BYTES", size + 1)
    assert not table.settling.due(WORKING, RULES)
    monkeypatch.setattr(settling, "HELD_BYTES", size)
    assert table.settling.due(WORKING, RULES)
