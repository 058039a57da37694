"""What an authority has signed and revoked: one JSON file, replaced whole, locked while it changes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from compression.records import Length, Matches, Record, RecordError, dumps, loads
from edge_client.wire.topics import DeviceName, FleetName
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PRIVATE, write_file

MAX_LEDGER_BYTES = 64 * 1024 * 1024  # some 300 bytes a certificate
Role = Literal["device", "server", "aggregator"]
State = Literal["valid", "expired", "revoked"]
Time = Annotated[str, Matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")]


@dataclass(frozen=True, slots=True)
class Issued(Record):
    """One certificate."""

    name: DeviceName
    role: Role
    serial: Annotated[str, Matches(r"[0-9a-f]{1,40}")]
    fingerprint: Annotated[str, Matches(r"[0-9a-f]{64}")]  # SHA-256 of the certificate
    not_before: Time
    not_after: Time
    revoked_at: Time | None = None

    def state(self, now: datetime) -> State:
        """Where it stands at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if parse_time(self.not_after) < now else "valid"


@dataclass(frozen=True, slots=True)
class Ledger(Record):
    """All of an authority's certificates, in the order of issue."""

    fleet: FleetName
    crl_number: int = 0
    issued: Annotated[tuple[Issued, ...], Length(0, 200_000)] = ()

    def of(self, name: str) -> tuple[Issued, ...]:
        """The certificates of one name."""
        return tuple(entry for entry in self.issued if entry.name == name)

    def stands(self, fingerprint: str) -> bool:
        """Whether the certificate was issued and is not revoked."""
        return any(e.fingerprint == fingerprint and e.revoked_at is None for e in self.issued)

    def revoked_names(self) -> tuple[str, ...]:
        """Names that have a revoked certificate and none that still counts."""
        revoked = {entry.name for entry in self.issued if entry.revoked_at is not None}
        standing = {entry.name for entry in self.issued if entry.revoked_at is None}
        return tuple(sorted(revoked - standing))

    def with_revoked(self, name: str, at: datetime) -> Ledger:
        """Every certificate of `name` that is not revoked yet is revoked at `at`."""
        entries = tuple(
            replace(entry, revoked_at=format_time(at))
            if entry.name == name and entry.revoked_at is None
            else entry
            for entry in self.issued
        )
        return replace(self, issued=entries)


def load_ledger(path: Path) -> Ledger:
    """The ledger from its file."""
    try:
        return loads(Ledger, path.read_bytes(), max_bytes=MAX_LEDGER_BYTES)
    except OSError as exc:
        raise PkiError(f"{path}: {exc.strerror or exc}") from exc
    except RecordError as exc:
        raise PkiError(f"{path} is damaged ({exc}); restore it from a backup") from exc


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Replace the ledger's file."""
    write_file(path, dumps(ledger), mode=PRIVATE)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time changes an authority; a command may run beside the server."""
    with (directory / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def format_time(moment: datetime) -> str:
    """UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """What `format_time` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
