"""Reasons not to erase a disk: small independent checks, each of which must pass.

No check can be switched off. Three of them, which are about what is likely, are answered by typing the
disk's serial number; those that are about what is so cannot be answered at all.
USB alone is never a sign that a disk may be erased: disks full of data hang on USB too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provisioning.image.blockdev import Disk

LARGEST = 256 * 10**9  # bytes: larger cards exist, larger backup disks are more common
ARRAY_MEMBERS = (
    "LVM2_member", "linux_raid_member", "zfs_member", "crypto_LUKS", "BitLocker", "btrfs", "bcache", "drbd",
    "ceph_bluestore", "isw_raid_member", "ddf_raid_member", "VMFS_volume_member",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks look at. Numbers are major:minor."""

    disk: Disk
    image_bytes: int | None  # None where the archive does not say: the writer stops at the disk's end
    system: frozenset[str]
    mounted: frozenset[str]


Guard = Callable[[Facts], str | None]  # the reason for a refusal


def whole_disk(facts: Facts) -> str | None:
    """A partition is not a card. A loop device is a file, and the plan says so."""
    if facts.disk.kind in {"disk", "loop"}:
        return None
    return f"is of type {facts.disk.kind!r}, not a whole disk"


def not_the_system(facts: Facts) -> str | None:
    """Nothing of the running system lies on it, by the mount table or by lsblk."""
    parts = list(facts.disk.all_parts())
    if any(part.number in facts.system for part in parts) or any("[SWAP]" in part.mounts for part in parts):
        return "holds the running system"
    return None


def not_mounted(facts: Facts) -> str | None:
    """Nothing on it is mounted anywhere."""
    for part in facts.disk.all_parts():
        if part.mounts:
            return f"{part.path} is mounted at {part.mounts[0]}: unmount it first"
        if part.number in facts.mounted:
            return f"{part.path} is mounted: unmount it first"
    return None


def writable(facts: Facts) -> str | None:
    """Not read-only: the switch of an SD adapter."""
    return "is read-only: look at the card's lock switch" if facts.disk.read_only else None


def large_enough(facts: Facts) -> str | None:
    """The image fits."""
    if facts.disk.size == 0:
        return "has no medium in it"
    if facts.image_bytes is not None and facts.disk.size < facts.image_bytes:
        return f"has {facts.disk.size} bytes, the image {facts.image_bytes}"
    return None


def not_too_large(facts: Facts) -> str | None:
    """A card, not a backup disk."""
    if facts.disk.size > LARGEST:
        return f"has {facts.disk.size / 1e9:.0f} GB, more than the {LARGEST / 1e9:.0f} GB of a usual card"
    return None


def made_to_be_removed(facts: Facts) -> str | None:
    """A medium that can be taken out, or an SD card. Being on USB does not count."""
    disk = facts.disk
    hotplug = disk.hotplug and disk.transport != "usb" and not disk.card
    if disk.removable or disk.card == "SD" or hotplug or disk.kind == "loop":
        return None
    return "is a fixed disk, not a removable one"


def no_foreign_data(facts: Facts) -> str | None:
    """Not part of a RAID, a volume group or an encrypted system, and no filesystem larger than a card."""
    for part in facts.disk.all_parts():
        if part.filesystem in ARRAY_MEMBERS:
            return f"{part.path} holds {part.filesystem}, which no Pi's card does"
        if part.filesystem_bytes > LARGEST:
            return f"{part.path} has a filesystem of {part.filesystem_bytes / 1e9:.0f} GB"
    return None


CERTAIN: tuple[Guard, ...] = (whole_disk, not_the_system, not_mounted, writable, large_enough)
LIKELY: tuple[Guard, ...] = (not_too_large, made_to_be_removed, no_foreign_data)


def refusals(facts: Facts, known_serials: frozenset[str] = frozenset()) -> list[str]:
    """Why this disk is not erased; empty if it may be.

    `known_serials` are serial numbers that a person typed: they answer the likely reasons, for the disk
    that has this number. A disk without one stays refused.
    """
    certain = [reason for guard in CERTAIN if (reason := guard(facts))]
    likely = [reason for guard in LIKELY if (reason := guard(facts))]
    serial = facts.disk.serial
    if not likely or (serial and serial in known_serials):
        return certain
    if certain:  # no serial number helps
        return certain + likely
    way_out = f"if it is the right disk, add --erase-serial {serial}" if serial else "it has no serial number"
    return [*likely, way_out]
