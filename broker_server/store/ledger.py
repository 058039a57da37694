"""The ledger: what has happened in a fleet, in SQLite, so that a killed server goes on where it was.

One file in WAL mode, synchronous FULL: when a call returns, a power cut cannot take it back. Rows hold
records as canonical JSON (`compression.records`), payloads lie in a table of their own (`store.payloads`).
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from broker_server.store.parsed import Parsed
from compression.errors import BrambleError
from compression.records import Record
from edge_client.wire.presence import Hello
from edge_client.wire.rollout import ReleaseReport
from edge_client.wire.rounds import Result, Task

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS devices (
    name TEXT PRIMARY KEY, hello TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY, stage INTEGER NOT NULL, task TEXT NOT NULL, published REAL NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS results (
    task INTEGER NOT NULL REFERENCES tasks (number), device TEXT NOT NULL, stage INTEGER NOT NULL,
    result TEXT NOT NULL, received REAL NOT NULL, PRIMARY KEY (task, device)) STRICT;
CREATE TABLE IF NOT EXISTS failures (
    task INTEGER NOT NULL REFERENCES tasks (number), device TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (task, device)) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_result_a_stage ON results (stage, device);
CREATE TABLE IF NOT EXISTS versions (version INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS incidents (
    at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, remedy TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS release_reports (
    version INTEGER NOT NULL, device TEXT NOT NULL, report TEXT NOT NULL,
    PRIMARY KEY (version, device)) STRICT;
"""
LOCK_S = 60.0  # that a command waits to leave an order while the server carries another one out
R = TypeVar("R", bound=Record)


class LedgerError(BrambleError, RuntimeError):
    """The ledger cannot be opened."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something went wrong and was dealt with."""

    at: float  # seconds since 1970
    who: str
    what: str
    remedy: str  # how the run went on


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as published."""

    task: Task
    stage: int
    published: float  # seconds since 1970
    closed: bool


class Ledger:
    """The fleet's history. One writing process at a time, held by a lock file; readers are free to look.

    Args:
        path: of the file.
        writer: False to look beside a running server, and to leave it an order (`store.models`).
    """

    def __init__(self, path: Path, *, writer: bool = True) -> None:
        if not writer and not path.exists():
            raise LedgerError(f"{path} does not exist: this fleet has not run yet")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path.with_suffix(".lock")) if writer else None
        self._parsed = Parsed()
        self._text = self._parsed.text
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_S)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as exc:
            if self._lock is not None:
                self._lock.close()
            raise LedgerError(f"{path} cannot be used as a ledger: {exc}") from exc

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """For tables of a subject of its own in the same file, under the same lock."""
        return self._db

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside another one it is a part of that."""
        inside = self._db.in_transaction
        if inside:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself has rolled back where the disk is full
                self._db.execute("ROLLBACK")
            raise

    # ---- facts ----

    def fact(self, name: str) -> str | None:
        """A single named value."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Keep a single named value."""
        self._db.execute("REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ---- devices ----

    def keep_hello(self, device: str, hello: Hello, now: float) -> None:
        """A device has introduced itself."""
        self._db.execute(
            "INSERT INTO devices VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET hello = excluded.hello, last_seen = excluded.last_seen",
            (device, self._text(hello), now, now),
        )

    def devices(self) -> dict[str, Hello]:
        """The latest introduction of every device ever seen."""
        rows = self._db.execute("SELECT name, hello FROM devices ORDER BY name")
        return {name: self._parsed(Hello, text) for name, text in rows}

    def last_seen(self) -> dict[str, float]:
        """When each device introduced itself last, in seconds since 1970."""
        return dict(self._db.execute("SELECT name, last_seen FROM devices ORDER BY name"))

    # ---- tasks and results ----

    def keep_task(self, task: Task, stage: int, now: float) -> None:
        """A task is about to be published."""
        self._db.execute(
            "INSERT INTO tasks VALUES (?, ?, ?, ?, 0)", (task.number, stage, self._text(task), now)
        )

    def last_task(self) -> TaskRow | None:
        """The newest task."""
        return self._task("ORDER BY number DESC LIMIT 1", ())

    def task(self, number: int) -> TaskRow | None:
        """A task by its number."""
        return self._task("WHERE number = ?", (number,))

    def stage_of(self, number: int) -> int | None:
        """The stage of a task, without reading all of it."""
        row = self._db.execute("SELECT stage FROM tasks WHERE number = ?", (number,)).fetchone()
        return int(row[0]) if row else None

    def _task(self, which: str, values: tuple[int, ...]) -> TaskRow | None:
        query = f"SELECT task, stage, published, closed FROM tasks {which}"  # noqa: S608 - our own text
        row = self._db.execute(query, values).fetchone()
        return TaskRow(self._parsed(Task, row[0]), row[1], row[2], bool(row[3])) if row else None

    def close_task(self, number: int) -> None:
        """No result of this task counts any more."""
        self._db.execute("UPDATE tasks SET closed = 1 WHERE number = ?", (number,))

    def keep_result(self, task: int, device: str, stage: int, result: Result, now: float) -> None:
        """A result counts from now on. A device counts once a stage: a second one is an `IntegrityError`."""
        self._db.execute(
            "INSERT INTO results VALUES (?, ?, ?, ?, ?)",
            (task, device, stage, self._text(result), now),
        )

    def result(self, task: int, device: str) -> Result | None:
        """This device's result of this task, if it counts."""
        query = "SELECT result FROM results WHERE task = ? AND device = ?"
        row = self._db.execute(query, (task, device)).fetchone()
        return self._parsed(Result, row[0]) if row else None

    def has_result(self, stage: int, device: str) -> bool:
        """Whether a result of this device counts for a stage."""
        query = "SELECT 1 FROM results WHERE stage = ? AND device = ?"
        return self._db.execute(query, (stage, device)).fetchone() is not None

    def keep_failure(self, task: int, device: str, reason: str) -> bool:
        """A device could not do a task, or its result was refused; False if that is known already."""
        query = "INSERT OR IGNORE INTO failures VALUES (?, ?, ?)"
        return self._db.execute(query, (task, device, reason)).rowcount > 0

    def failures(self, task: int) -> dict[str, str]:
        """Why devices failed a task."""
        return dict(self._db.execute("SELECT device, reason FROM failures WHERE task = ?", (task,)))

    def results(self, stage: int) -> dict[str, Result]:
        """The results that count for a stage, by device in order of name."""
        rows = self._db.execute(
            "SELECT device, result FROM results WHERE stage = ? ORDER BY device", (stage,)
        )
        return {device: self._parsed(Result, text) for device, text in rows}

    def answer_times(self, stage: int) -> dict[str, float]:
        """Seconds from a task's publication to the result that counts, by device: the server's own clock."""
        rows = self._db.execute(
            "SELECT device, received - published FROM results JOIN tasks ON tasks.number = results.task "
            "WHERE results.stage = ?",
            (stage,),
        )
        return {device: max(0.0, seconds) for device, seconds in rows}

    # ---- versions, rounds, incidents ----

    def keep_version(self, version: int, record: Record) -> None:
        """A version of the weights is complete."""
        self._db.execute("INSERT INTO versions VALUES (?, ?)", (version, self._text(record)))

    def versions(self, cls: type[R]) -> dict[int, R]:
        """All versions of the weights in order."""
        rows = self._db.execute("SELECT version, record FROM versions ORDER BY version")
        return {version: self._parsed(cls, text) for version, text in rows}

    def keep_round(self, number: int, record: Record) -> None:
        """What a round came to; a later evaluation may complete it."""
        self._db.execute("REPLACE INTO rounds VALUES (?, ?)", (number, self._text(record)))

    def round(self, number: int, cls: type[R]) -> R | None:
        """One round."""
        row = self._db.execute("SELECT record FROM rounds WHERE round = ?", (number,)).fetchone()
        return self._parsed(cls, row[0]) if row else None

    def rounds(self, cls: type[R]) -> dict[int, R]:
        """All rounds in order."""
        rows = self._db.execute("SELECT round, record FROM rounds ORDER BY round")
        return {number: self._parsed(cls, text) for number, text in rows}

    def note(self, now: float, who: str, what: str, remedy: str) -> None:
        """Something went wrong and was dealt with."""
        self._db.execute("INSERT INTO incidents VALUES (?, ?, ?, ?)", (now, who, what, remedy))

    def incidents(self) -> list[Incident]:
        """What went wrong, in order."""
        return [
            Incident(*row)
            for row in self._db.execute("SELECT at, who, what, remedy FROM incidents ORDER BY rowid")
        ]

    # ---- releases ----

    def keep_release_report(self, device: str, report: ReleaseReport) -> None:
        """What became of a release on a device; the newest word counts."""
        self._db.execute(
            "REPLACE INTO release_reports VALUES (?, ?, ?)",
            (report.version, device, self._text(report)),
        )

    def release_reports(self, version: int) -> Mapping[str, ReleaseReport]:
        """What became of a release, by device."""
        rows = self._db.execute(
            "SELECT device, report FROM release_reports WHERE version = ? ORDER BY device", (version,)
        )
        return {device: self._parsed(ReleaseReport, text) for device, text in rows}


def _locked(path: Path) -> IO[bytes]:
    """A file that this process alone has locked, until it ends or closes it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise LedgerError(f"{path.parent} is in use by another server: stop that one first") from exc
    return file
