"""Looking into a card's image file without mounting it."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.e2e.shell import RigError, run

SECTOR = 512


def partition_offset(card: Path, number: int) -> int:
    """Where a partition begins, in bytes, from the master boot record."""
    with card.open("rb") as file:
        record = file.read(SECTOR)
    if record[510:512] != b"\x55\xaa":
        raise RigError(f"{card} has no master boot record")
    (start,) = struct.unpack_from("<I", record, 446 + 16 * (number - 1) + 8)
    return int(start) * SECTOR


def boot_file(card: Path, name: str) -> str:
    """A text file of the boot partition, as any PC would show it."""
    return run("mtype", "-i", f"{card}@@{partition_offset(card, 1)}", f"::{name}")


def boot_files(card: Path) -> list[str]:
    """The names of all files of the boot partition."""
    listing = run("mdir", "-/", "-b", "-i", f"{card}@@{partition_offset(card, 1)}", "::")
    return [line.removeprefix("::/") for line in listing.splitlines() if line]


def debugfs(card: Path, *commands: str, write: bool = False) -> str:
    """Run debugfs commands on the root file system."""
    where = f"{card}?offset={partition_offset(card, 2)}"
    return run("debugfs", *(("-w",) if write else ()), "-f", "-", where, stdin="\n".join(commands) + "\n")
