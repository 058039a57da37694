"""How often a model answered here: a small file that every command that asks the model adds to.

The agent reads it and tells the server, so that a model which fails in use is taken back. Counts only: no
input, no answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compression.records import Record, RecordError, dumps, loads
from edge_client.files import write_atomically
from edge_client.wire.fields import Number

log = logging.getLogger(__name__)

FILE, LOCK = "usage.json", "usage.lock"
MAX_BYTES = 4096
KEPT_BACK = 50  # answers between two writes: the card wears out


@dataclass(frozen=True, slots=True)
class Usage(Record):
    """Counts since this version began to answer."""

    version: Number = 0
    answers: Number = 0
    errors: Number = 0
    unlike: Number = 0


class UsageLog:
    """Counts the answers of one process; on leaving, all of them are written."""

    def __init__(self, directory: Path, version: int) -> None:
        self._directory = directory
        self._new = Usage(version=version)

    def __enter__(self) -> UsageLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, *, answers: int = 0, errors: int = 0, unlike: int = 0) -> None:
        """Count, and write from time to time."""
        new = self._new
        self._new = Usage(new.version, new.answers + answers, new.errors + errors, new.unlike + unlike)
        if self._new.answers + self._new.errors + self._new.unlike >= KEPT_BACK:
            self.flush()

    def flush(self) -> None:
        """Write what was counted; a disk that fails costs the counts, not the answers."""
        new, self._new = self._new, Usage(version=self._new.version)
        if not new.answers + new.errors + new.unlike:
            return
        try:
            with _locked(self._directory):
                old = read_usage(self._directory, new.version)
                total = Usage(
                    new.version, old.answers + new.answers, old.errors + new.errors, old.unlike + new.unlike
                )
                write_atomically(self._directory / FILE, dumps(total))
        except OSError as exc:
            log.warning("%s: the counts of %d answers are lost: %s", self._directory, new.answers, exc)


def read_usage(directory: Path, version: int) -> Usage:
    """What was counted of a version; zeros if the file is of another."""
    with contextlib.suppress(OSError, RecordError):
        usage = loads(Usage, (directory / FILE).read_bytes(), max_bytes=MAX_BYTES)
        if usage.version == version:
            return usage
    return Usage(version=version)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
