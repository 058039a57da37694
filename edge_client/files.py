"""Files on a device, where the power may go at any moment."""

from __future__ import annotations

import os
import re
from pathlib import Path

LEFT_OVER = re.compile(r"\..+\.[0-9]+\.(tmp|part)")  # temporary names, as `write_atomically` makes them


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file's content: after a crash it holds the old bytes or the new, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = _opened(temporary, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _opened(path: Path, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def remove_left_overs(directory: Path) -> None:
    """Remove what writes that a power cut interrupted have left, at any depth; nobody may be writing."""
    for path in directory.rglob(".*"):
        if LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
