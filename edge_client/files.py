"""Files on a device, where the power may go at any moment."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

LEFT_OVER = re.compile(r"\..+\.[0-9]+\.(tmp|part)")  # temporary names, as `write_atomically` makes them


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file's content: after a crash it holds the old bytes or the new, never a mixture."""
    temporary = f".{path.name}.{os.getpid()}.tmp"
    folder = _opened(path.parent)
    try:
        _write(temporary, data, mode, folder)
        os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def _opened(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def _write(name: str, data: bytes, mode: int, folder: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
