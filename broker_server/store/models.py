"""Tables of released models and their rollouts, in the ledger's file.

The server has the only writing connection but for one table: `orders`, into which commands write what
somebody wants done, while the server runs or before it starts. SQLite sees to it that both can.
"""

from __future__ import annotations

import fcntl
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from broker_server.store.parsed import MAX_RECORD_BYTES
from compression.records import Record, dumps, loads
from edge_client.wire.presence import Hello

SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    version INTEGER PRIMARY KEY, record TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rollouts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, state TEXT NOT NULL,
    release TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS pins (device TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS directives (device TEXT PRIMARY KEY, release TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS model_health (
    version INTEGER NOT NULL, device TEXT NOT NULL, at REAL NOT NULL, health TEXT NOT NULL,
    PRIMARY KEY (version, device)) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, order_text TEXT NOT NULL,
    answer TEXT) STRICT;
"""
R = TypeVar("R", bound=Record)
P = TypeVar("P", bound=Record)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model as the registry holds it: the record's canonical JSON, and its signature in hexadecimal."""

    version: int
    text: str
    signature: str


class ModelStore:
    """The tables, on a connection of the ledger's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.executescript(SCHEMA)

    # ---- models ----

    def keep_model(self, version: int, record: Record, signature: str) -> None:
        """A new version; a second one of its number is an `IntegrityError`."""
        self._db.execute("INSERT INTO models VALUES (?, ?, ?)", (version, _text(record), signature))

    def models(self) -> dict[int, ModelRow]:
        """All versions in order."""
        rows = self._db.execute("SELECT version, record, signature FROM models ORDER BY version")
        return {version: ModelRow(version, text, signature) for version, text, signature in rows}

    def has_model(self, version: int) -> bool:
        """Whether a version is there, without reading it."""
        query = "SELECT 1 FROM models WHERE version = ?"
        return self._db.execute(query, (version,)).fetchone() is not None

    # ---- rollouts ----

    def keep_rollout(self, state: Record, version: int, release: Record) -> int:
        """A rollout begins; its number."""
        query = "INSERT INTO rollouts (version, state, release) VALUES (?, ?, ?)"
        number = self._db.execute(query, (version, _text(state), _text(release))).lastrowid
        return number or 0

    def update_rollout(self, number: int, state: Record) -> None:
        """A rollout went on."""
        self._db.execute("UPDATE rollouts SET state = ? WHERE number = ?", (_text(state), number))

    def update_release(self, number: int, release: Record) -> None:
        """Something else is published in the course of a rollout: a rollback."""
        self._db.execute("UPDATE rollouts SET release = ? WHERE number = ?", (_text(release), number))

    def last_rollout(self, state: type[R], release: type[P]) -> tuple[int, R, P] | None:
        """The newest rollout: its number, state and release."""
        query = "SELECT number, state, release FROM rollouts ORDER BY number DESC LIMIT 1"
        row = self._db.execute(query).fetchone()
        return (row[0], _record(state, row[1]), _record(release, row[2])) if row else None

    def rollouts(self, state: type[R]) -> list[R]:
        """All rollouts in order."""
        return [
            _record(state, text) for (text,) in self._db.execute("SELECT state FROM rollouts ORDER BY number")
        ]

    # ---- single devices ----

    def hello(self, device: str) -> Hello | None:
        """What a device said of itself last; of one device, since all of a large fleet take a second."""
        row = self._db.execute("SELECT hello FROM devices WHERE name = ?", (device,)).fetchone()
        return _record(Hello, row[0]) if row else None

    def pin(self, device: str, version: int | None) -> None:
        """Keep a device at a version; None lets it go."""
        self._db.execute("DELETE FROM pins WHERE device = ?", (device,))
        if version is not None:
            self._db.execute("INSERT INTO pins VALUES (?, ?)", (device, version))

    def pins(self) -> dict[str, int]:
        """Pinned devices and their versions."""
        return dict(self._db.execute("SELECT device, version FROM pins ORDER BY device"))

    def keep_directive(self, device: str, release: Record) -> None:
        """What one device was told last, apart from the fleet."""
        self._db.execute("REPLACE INTO directives VALUES (?, ?)", (device, _text(release)))

    def directive(self, device: str, release: type[R]) -> R | None:
        """What one device was told last."""
        row = self._db.execute("SELECT release FROM directives WHERE device = ?", (device,)).fetchone()
        return _record(release, row[0]) if row else None

    def keep_health(self, device: str, version: int, health: Record, now: float) -> None:
        """How a version does on a device; the newest word counts."""
        self._db.execute(
            "REPLACE INTO model_health VALUES (?, ?, ?, ?)", (version, device, now, _text(health))
        )

    def health(self, device: str, version: int, health: type[R]) -> R | None:
        """How a version does on one device."""
        query = "SELECT health FROM model_health WHERE version = ? AND device = ?"
        row = self._db.execute(query, (version, device)).fetchone()
        return _record(health, row[0]) if row else None

    def healths(self, version: int, health: type[R]) -> dict[str, R]:
        """How a version does, by device."""
        query = "SELECT device, health FROM model_health WHERE version = ? ORDER BY device"
        return {device: _record(health, text) for device, text in self._db.execute(query, (version,))}

    def forget_healths(self, version: int) -> None:
        """What was said of a version is of an earlier rollout."""
        self._db.execute("DELETE FROM model_health WHERE version = ?", (version,))

    # ---- orders ----

    def give_order(self, order: str, now: float) -> int:
        """Write down what somebody wants; its number."""
        query = "INSERT INTO orders (at, order_text) VALUES (?, ?)"
        return self._db.execute(query, (now, order)).lastrowid or 0

    def open_orders(self) -> dict[int, str]:
        """Orders without an answer, the oldest first."""
        query = "SELECT number, order_text FROM orders WHERE answer IS NULL ORDER BY number"
        return dict(self._db.execute(query))

    def answer_order(self, number: int, answer: str) -> None:
        """What became of an order."""
        self._db.execute("UPDATE orders SET answer = ? WHERE number = ?", (answer, number))

    def answer(self, number: int) -> str | None:
        """What became of an order; None while nobody has taken it."""
        row = self._db.execute("SELECT answer FROM orders WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None


def server_runs(ledger: Path) -> bool:
    """Whether a server holds the ledger's lock now."""
    with ledger.with_suffix(".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _text(record: Record) -> str:
    return dumps(record).decode()


def _record(cls: type[R], text: str) -> R:
    return loads(cls, text.encode(), max_bytes=MAX_RECORD_BYTES)
