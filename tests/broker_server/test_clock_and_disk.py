"""The server's clock when somebody sets the machine's, and what is said of a full disk."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_server import clock
from broker_server.disk import said_when_full
from broker_server.errors import RunError
from broker_server.store.ledger import Ledger


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger that cannot grow, as on a disk without room."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    (pages,) = ledger.connection.execute("PRAGMA page_count").fetchone()
    ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
    with contextlib.closing(ledger):
        yield ledger


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_setting_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    real, before = time.time, clock.now()
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert 0 <= clock.now() - before < 3600
    assert abs(before - real()) < 3600


def test_a_transaction_that_finds_no_room_changes_nothing_and_says_why(full: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError, match="full"), full.transaction():
        full.set_fact("small", "kept with the other or not at all")
        full.set_fact("large", "x" * 200_000)
    assert full.fact("small") is None
    full.connection.execute("PRAGMA max_page_count = 100000")
    with full.transaction():
        full.set_fact("large", "x" * 200_000)
    assert full.fact("large")


def test_a_full_disk_is_said_with_its_folder(full: Ledger, tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=f"the disk is full, {tmp_path} .* make room"),
        said_when_full(tmp_path),
    ):
        full.set_fact("large", "x" * 200_000)
    with pytest.raises(RunError, match="No space left"), said_when_full(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "file")


@pytest.mark.parametrize(
    "problem", [PermissionError(errno.EACCES, "not yours"), sqlite3.IntegrityError("twice"), RunError("else")]
)
def test_other_problems_stay_as_they_are(tmp_path: Path, problem: Exception) -> None:
    with pytest.raises(type(problem), match=str(problem.args[-1])), said_when_full(tmp_path):
        raise problem
