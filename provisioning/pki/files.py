"""Files that are whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


def write_file(path: Path, data: bytes, *, mode: int = PUBLIC, owner: tuple[int, int] | None = None) -> None:
    """Put `data` at `path`; the file has its mode (and owner) from birth, before it holds a byte."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask was
            if owner is not None:
                os.fchown(descriptor, *owner)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_new_file(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """As `write_file`, but a file that is there already is never replaced: `FileExistsError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_file(temporary, data, mode=mode)
        os.link(temporary, path)  # fails where the name is taken, unlike a rename
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
