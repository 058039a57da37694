"""Tokens, steps and the newest certificates of a fleet: ``enrolment.db`` in the authority's folder, SQLite.

Of a token only the SHA-256 is kept: it has 256 random bits, so nothing slower is needed. synchronous FULL:
when a transaction has ended, a power cut cannot take it back. Commands read and write beside the running
service; a connection lives for one call.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_client.wire.enrolment import State, Step, StepReport
from provisioning.enrolment.errors import EnrolmentServiceError

FILE = "enrolment.db"
LOCK_TIMEOUT_S = 20.0  # signing takes 20 ms under the lock, and a rack of Pis may ask at once
TokenState = Literal["open", "used", "withdrawn", "expired"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, issued REAL NOT NULL,
    expires REAL NOT NULL, revocations INTEGER NOT NULL, withdrawn TEXT, key BLOB, used REAL) STRICT;
CREATE INDEX IF NOT EXISTS tokens_by_name ON tokens (name);
CREATE TABLE IF NOT EXISTS devices (
    name TEXT PRIMARY KEY, certificate BLOB NOT NULL, token INTEGER, serial TEXT NOT NULL,
    model TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS steps (
    name TEXT NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL, uptime_s REAL NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (name, step)) STRICT;
"""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What is known of one token. Times are seconds since 1970."""

    id: int
    name: str
    hash: bytes
    issued: float
    expires: float
    revocations: int  # certificates of the name that were revoked when it was issued
    withdrawn: str | None = None  # why it may not be used any more
    key: bytes | None = None  # SHA-256 of the public key that used it
    used: float | None = None

    def state(self, now: float) -> TokenState:
        """Where it stands at `now`, in seconds since 1970."""
        if self.used is not None:
            return "used"
        if self.withdrawn is not None:
            return "withdrawn"
        return "expired" if self.expires < now else "open"


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """The newest certificate of a name, and the board that asked for its first."""

    name: str
    certificate: bytes  # PEM
    token: int | None
    serial: str
    model: str


@dataclass(frozen=True, slots=True)
class StepRow:
    """The newest report of one step of one device; `at` is when the server heard it, seconds since 1970."""

    name: str
    step: Step
    state: State
    detail: str
    uptime_s: float
    at: float


class Transaction:
    """What can be read and written while nobody else writes. Made by `EnrolmentStore.transaction`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # ---- tokens ----

    def tokens(self, name: str | None = None) -> list[TokenRow]:
        """The tokens of one name, or all, oldest first."""
        rows = self._db.execute("SELECT * FROM tokens WHERE ?1 IS NULL OR name = ?1 ORDER BY id", (name,))
        return [TokenRow(*row) for row in rows]

    def add_token(self, name: str, digest: bytes, *, issued: float, expires: float, revocations: int) -> None:
        """Keep a new token, and begin the device's steps anew."""
        self._db.execute(
            "INSERT INTO tokens (name, hash, issued, expires, revocations) VALUES (?, ?, ?, ?, ?)",
            (name, digest, issued, expires, revocations),
        )
        self._db.execute("DELETE FROM steps WHERE name = ?", (name,))

    def withdraw(self, name: str, why: str) -> int:
        """Let no token of a name be used any more; how many could be until now."""
        changed = self._db.execute(
            "UPDATE tokens SET withdrawn = ? WHERE name = ? AND withdrawn IS NULL AND key IS NULL",
            (why, name),
        )
        return changed.rowcount

    def use(self, token: int, key: bytes, now: float) -> None:
        """The token has been used, by this key and for good."""
        self._db.execute("UPDATE tokens SET key = ?, used = ? WHERE id = ?", (key, now, token))

    # ---- devices ----

    def device(self, name: str) -> DeviceRow | None:
        """What was issued to a name last."""
        row = self._db.execute("SELECT * FROM devices WHERE name = ?", (name,)).fetchone()
        return DeviceRow(*row) if row else None

    def devices(self) -> list[DeviceRow]:
        """All of them, by name."""
        return [DeviceRow(*row) for row in self._db.execute("SELECT * FROM devices ORDER BY name")]

    def keep_device(self, device: DeviceRow) -> None:
        """Keep what was issued last."""
        values = (device.name, device.certificate, device.token, device.serial, device.model)
        self._db.execute("REPLACE INTO devices VALUES (?, ?, ?, ?, ?)", values)

    # ---- steps ----

    def steps(self) -> list[StepRow]:
        """The newest report of each device and step."""
        return [StepRow(*row) for row in self._db.execute("SELECT * FROM steps ORDER BY name, at")]

    def keep_step(self, report: StepReport, at: float) -> None:
        """Keep the newest report of a step."""
        values = (report.name, report.step, report.state, report.detail, report.uptime_s, at)
        self._db.execute("REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?)", values)


class EnrolmentStore:
    """One fleet's `enrolment.db`. Made where it is missing, private to its owner."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(self._connect()) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise EnrolmentServiceError(f"{self.path} cannot be used: {exc}") from exc

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, one at a time, also between processes."""
        with closing(self._connect()) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(db)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def look(self) -> Iterator[Transaction]:
        """Read one state of it all; waits for nobody."""
        with closing(self._connect()) as db:
            db.execute("BEGIN")
            yield Transaction(db)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=LOCK_TIMEOUT_S)
        db.execute("PRAGMA synchronous = FULL")
        return db
