"""What was written, as a list that can be checked again: at once, and past the page cache after flashing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provisioning.customise.errors import CustomiseError
from provisioning.customise.ext4 import Found, RootPartition
from provisioning.customise.fat import BootPartition
from provisioning.customise.layout import Layout
from provisioning.customise.payload import BootFile, Content, RootEntry, RootFile, RootFolder


@dataclass(frozen=True, slots=True)
class Written:
    """One thing on the card. `sha256` is empty for folders; for a link it is of the target's name."""

    partition: Literal["boot", "root"]
    kind: Literal["file", "folder", "link"]
    path: str
    sha256: str
    size: int
    mode: int | None = None
    owner: tuple[int, int] | None = None


def written_boot(file: BootFile) -> Written:
    """What a file of the boot partition must read as."""
    digest, size = _digest(file.content)
    return Written("boot", "file", file.path, digest, size)


def written_root(entry: RootEntry) -> Written:
    """What an entry of the root file system must read as."""
    if isinstance(entry, RootFile):
        digest, size = _digest(entry.content)
        return Written("root", "file", entry.path, digest, size, entry.mode, entry.owner)
    if isinstance(entry, RootFolder):
        return Written("root", "folder", entry.path, "", 0, entry.mode, entry.owner)
    target = entry.target.encode()
    return Written("root", "link", entry.path, hashlib.sha256(target).hexdigest(), len(target))


def check_written(target: Path, written: Sequence[Written], layout: Layout) -> None:
    """Read everything back and compare: bytes, and in the root file system modes and owners too.

    What the page cache holds is believed; drop it first where that matters.

    Raises:
        CustomiseError: naming the first thing that is not as it was written.
    """
    boot = [item for item in written if item.partition == "boot"]
    root = [item for item in written if item.partition == "root"]
    with tempfile.TemporaryDirectory(prefix="bramble-check-") as name:  # 0700: it may hold secrets
        folder = Path(name)
        BootPartition(target, layout.boot.offset).read_all([item.path for item in boot], folder)
        _compare(boot, folder)
    if root:
        if layout.root is None:
            raise CustomiseError(f"{target} has no root file system to read back")
        _check_root(RootPartition(target, layout.root.offset), root)


def _check_root(partition: RootPartition, written: Sequence[Written]) -> None:
    for item, found in zip(written, partition.stat([item.path for item in written]), strict=True):
        if not _stands(item, found):
            raise CustomiseError(f"read back: {item.path} of the root file system is not as it was written")
    files = [item for item in written if item.kind == "file"]
    with tempfile.TemporaryDirectory(prefix="bramble-check-") as name:
        partition.read_all([item.path for item in files], Path(name))
        _compare(files, Path(name))


def _stands(item: Written, found: Found | None) -> bool:
    kinds = {"file": "regular", "folder": "directory", "link": "symlink"}
    if found is None or found.kind != kinds[item.kind]:
        return False
    if item.kind == "link":
        return found.link is not None and hashlib.sha256(found.link.encode()).hexdigest() == item.sha256
    return (found.mode, found.owner) == (item.mode, item.owner)


def _compare(written: Sequence[Written], folder: Path) -> None:
    for number, item in enumerate(written):
        if _digest(folder / str(number)) != (item.sha256, item.size):
            raise CustomiseError(f"read back: {item.path} differs from what was written: a bad card?")


def _digest(content: Content) -> tuple[str, int]:
    """SHA-256 in hexadecimal, and the number of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    try:
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as exc:
        raise CustomiseError(f"{content}: {exc.strerror or exc}") from exc
