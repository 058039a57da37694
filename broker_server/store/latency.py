"""Tables of a fleet's benchmarks, in the ledger's file: what somebody wants measured, each device's answer.

A command writes an order and reads how far it has come; the server at work carries it out. SQLite sees to it
that both can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from broker_server.store.parsed import MAX_RECORD_BYTES
from compression.records import Between, Length, Record, dumps, loads
from edge_client.wire.blobs import BlobRef
from edge_client.wire.fields import MAX_COHORT
from edge_client.wire.latency import LatencyReport
from edge_client.wire.measurement import MeasurePlan
from edge_client.wire.topics import DeviceName

SCHEMA = """
CREATE TABLE IF NOT EXISTS latency_orders (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, order_text TEXT NOT NULL, answer TEXT) STRICT;
CREATE TABLE IF NOT EXISTS latency_devices (
    number INTEGER NOT NULL REFERENCES latency_orders (number), device TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, report TEXT, PRIMARY KEY (number, device)) STRICT;
"""
DONE = "done"


@dataclass(frozen=True, slots=True)
class LatencyOrder(Record):
    """One benchmark of a fleet.

    Attributes:
        devices: who is asked; empty for every device that ever joined.
        model: the file, already among those to be measured; None for what each device has active.
        plan: how.
        wait_s: from the order on; who has not answered by then is left out.
    """

    devices: Annotated[tuple[DeviceName, ...], Length(0, MAX_COHORT)] = ()
    model: BlobRef | None = None
    plan: MeasurePlan = MeasurePlan()
    wait_s: Annotated[float, Between(1, 86_400)] = 300.0


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order as it was given."""

    number: int
    at: float  # seconds since 1970
    order: LatencyOrder

    @property
    def expires(self) -> float:
        """When its time is up, in seconds since 1970."""
        return self.at + self.order.wait_s


class LatencyStore:
    """The tables, on a connection of the ledger's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.executescript(SCHEMA)

    def give(self, order: LatencyOrder, now: float) -> int:
        """Write down what somebody wants; its number, above all before, also of a ledger that was lost."""
        query = (
            "INSERT INTO latency_orders (number, at, order_text) "
            "SELECT max(?, coalesce(max(number), 0) + 1), ?, ? FROM latency_orders"
        )
        return self._db.execute(query, (int(now), now, dumps(order).decode())).lastrowid or 0

    def waiting(self) -> OrderRow | None:
        """The oldest order that is not over."""
        query = "SELECT number, at, order_text FROM latency_orders WHERE answer IS NULL ORDER BY number"
        row = self._db.execute(query).fetchone()
        if row is None:
            return None
        number, at, text = row
        return OrderRow(number, at, loads(LatencyOrder, text.encode(), max_bytes=MAX_RECORD_BYTES))

    def answer(self, number: int) -> str | None:
        """What became of an order: `DONE`, or why not; None while it is not over."""
        row = self._db.execute("SELECT answer FROM latency_orders WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    def end(self, number: int, answer: str) -> None:
        """An order is over; the first word counts."""
        query = "UPDATE latency_orders SET answer = ? WHERE number = ? AND answer IS NULL"
        self._db.execute(query, (answer, number))

    def spent_files(self) -> set[str]:
        """Digests of the files that orders which are over name, and no order that is not."""
        named: dict[bool, set[str]] = {True: set(), False: set()}
        for text, over in self._db.execute("SELECT order_text, answer IS NOT NULL FROM latency_orders"):
            order = loads(LatencyOrder, text.encode(), max_bytes=MAX_RECORD_BYTES)
            named[bool(over)] |= {order.model.digest} if order.model else set()
        return named[True] - named[False]

    def ask(self, number: int, devices: Iterable[str]) -> None:
        """These are asked; those that were before, stay as they are."""
        rows = [(number, device) for device in devices]
        self._db.executemany("INSERT OR IGNORE INTO latency_devices VALUES (?, ?, '', '', NULL)", rows)

    def note(self, number: int, device: str, state: str, reason: str) -> None:
        """How far a device has come; nothing changes once it has reported."""
        query = (
            "UPDATE latency_devices SET state = ?, reason = ? "
            "WHERE number = ? AND device = ? AND report IS NULL"
        )
        self._db.execute(query, (state, reason, number, device))

    def keep(self, device: str, report: LatencyReport) -> None:
        """A device has answered; the first word counts."""
        query = (
            "UPDATE latency_devices SET state = ?, reason = ?, report = ? "
            "WHERE number = ? AND device = ? AND report IS NULL"
        )
        text = dumps(report).decode()
        self._db.execute(query, (report.outcome, report.reason, text, report.number, device))

    def states(self, number: int) -> dict[str, tuple[str, str]]:
        """State and reason of everyone who is asked, in order of name; nothing large is read."""
        query = "SELECT device, state, reason FROM latency_devices WHERE number = ? ORDER BY device"
        return {device: (state, reason) for device, state, reason in self._db.execute(query, (number,))}

    def reports(self, number: int) -> dict[str, LatencyReport]:
        """The answers, in order of name."""
        query = (
            "SELECT device, report FROM latency_devices "
            "WHERE number = ? AND report IS NOT NULL ORDER BY device"
        )
        return {
            device: loads(LatencyReport, text.encode(), max_bytes=MAX_RECORD_BYTES)
            for device, text in self._db.execute(query, (number,))
        }
