"""Where the partitions of a Raspberry Pi image begin: its MBR, read by hand.

The kernel need not know the image: no loop device, no mount, no root.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from provisioning.customise.errors import CustomiseError

SECTOR = 512
TABLE, ENTRY_BYTES, ENTRIES = 446, 16, 4
FAT_KINDS, LINUX, PROTECTIVE = (0x0B, 0x0C, 0x0E, 0x06, 0x04), 0x83, 0xEE


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its number from 1, and its place, in bytes."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The FAT partition that the firmware reads, and the root file system, if there is one."""

    boot: Partition
    root: Partition | None


def read_layout(target: Path) -> Layout:
    """The layout of an image file or a card."""
    try:
        with target.open("rb") as file:
            return layout_of(file.read(SECTOR))
    except OSError as exc:
        raise CustomiseError(f"{target}: {exc.strerror or exc}") from exc


def layout_of(first_sector: bytes) -> Layout:
    """The layout that an MBR describes; while a card's first block is held back, from that block."""
    if len(first_sector) < SECTOR or first_sector[510:512] != b"\x55\xaa":
        raise CustomiseError("no partition table in the first sector: not the image of a whole card")
    boot = root = None
    for number in range(1, ENTRIES + 1):
        start = TABLE + ENTRY_BYTES * (number - 1)
        kind, first, sectors = struct.unpack("<4xB3xII", first_sector[start : start + ENTRY_BYTES])
        if kind == PROTECTIVE:
            raise CustomiseError("the image has a GPT; Raspberry Pi OS images have an MBR")
        partition = Partition(number, first * SECTOR, sectors * SECTOR)
        if kind in FAT_KINDS and boot is None:
            boot = partition
        elif kind == LINUX and root is None:
            root = partition
    if boot is None:
        raise CustomiseError("no FAT partition in the image: not an image for a Raspberry Pi")
    return Layout(boot, root)
