"""A full disk, in words: the server ends, what is in the ledger stays, and the same command goes on."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_server.errors import RunError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NEARLY_NONE = 64 * 1024  # bytes: SQLite says "disk I/O error" where it cannot make its index file larger


@contextmanager
def said_when_full(folder: Path) -> Iterator[None]:
    """Raise `RunError` where something in the body fails because the disk of a folder is full."""
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        if not _is_full(exc, folder):
            raise
        why = " ".join(str(exc).split())
        raise RunError(
            f"the disk is full, {folder} cannot be written ({why}): make room, the same command then goes on"
        ) from exc


def _is_full(exc: OSError | sqlite3.Error, folder: Path) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in NO_ROOM
    kind = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest is the detail
    if kind == sqlite3.SQLITE_IOERR:
        return shutil.disk_usage(folder).free < NEARLY_NONE
    return kind == sqlite3.SQLITE_FULL
