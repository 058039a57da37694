"""The disks of this machine, as lsblk, sysfs and the mount table tell of them. Nothing is opened here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.image.errors import RefusedError

COLUMNS = "NAME,PATH,MAJ:MIN,TYPE,SIZE,RO,RM,HOTPLUG,TRAN,VENDOR,MODEL,SERIAL,FSTYPE,FSSIZE,LABEL,MOUNTPOINTS"
SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")
LSBLK_TIMEOUT_S = 30  # a dying card answers late
MAX_DEPTH = 16  # of LVM on RAID on partitions


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, a partition, or what lies on one (LVM, RAID, encryption). Sizes in bytes."""

    path: str
    number: str  # major:minor
    kind: str  # lsblk's type: disk, part, loop, lvm, raid1, crypt, rom
    size: int
    read_only: bool
    removable: bool
    hotplug: bool
    transport: str
    model: str
    serial: str
    filesystem: str
    filesystem_bytes: int
    label: str
    mounts: tuple[str, ...]
    card: str  # SD, MMC (soldered), or empty where it is no memory card
    sequence: str  # of the kernel: another medium or another disk has another number
    children: tuple[Disk, ...] = ()

    def all_parts(self) -> Iterator[Disk]:
        """Itself and everything on it."""
        yield self
        for child in self.children:
            yield from child.all_parts()


def find_disk(path: Path) -> Disk:
    """The disk, partition or loop device at a path.

    Raises:
        RefusedError: lsblk is not installed or knows no such device.
    """
    real = os.path.realpath(path)
    for disk in parse_lsblk(_lsblk()):
        for part in disk.all_parts():
            if part.path == real:
                return part
    raise RefusedError(f"{path}: lsblk knows no such disk")


def parse_lsblk(text: str, sys: Path = Path("/sys")) -> tuple[Disk, ...]:
    """The disks in ``lsblk --json --bytes``."""
    try:
        return tuple(_disk(entry, sys) for entry in json.loads(text)["blockdevices"])
    except (ValueError, KeyError, TypeError) as exc:
        raise RefusedError(f"lsblk prints what cannot be read: {exc}") from exc


def system_numbers(
    mountinfo: str, swaps: str, sys: Path = Path("/sys"), system_mounts: tuple[str, ...] = SYSTEM_MOUNTS
) -> frozenset[str]:
    """major:minor of everything that carries the running system: its partitions, disks and their parents.

    Does not ask lsblk, so that an error of one is caught by the other.
    """
    found: set[str] = set()
    for number, place, source in _mounts(mountinfo):
        if place in system_mounts:
            found |= {number, *_number_of(source)}
    for line in swaps.splitlines()[1:]:
        found |= _number_of(line.split()[0])
    return frozenset(parent for number in found for parent in (number, *_parents(number, sys, MAX_DEPTH)))


def mounted_numbers(mountinfo: str) -> frozenset[str]:
    """major:minor of everything that is mounted anywhere."""
    mounts = list(_mounts(mountinfo))
    numbers = {number for number, _place, _source in mounts}
    return frozenset(numbers.union(*(_number_of(source) for _number, _place, source in mounts)))


# ---- reading the system ----


def _lsblk() -> str:
    try:
        result = subprocess.run(
            ["lsblk", "--json", "--bytes", "--output", COLUMNS],
            capture_output=True,
            text=True,
            check=True,
            timeout=LSBLK_TIMEOUT_S,
        )
    except FileNotFoundError as exc:
        raise RefusedError("lsblk is not installed: writing to disks needs Linux and util-linux") from exc
    except subprocess.SubprocessError as exc:
        raise RefusedError(f"lsblk failed, so no disk is touched: {exc}") from exc
    return result.stdout


def _disk(entry: dict[str, Any], sys: Path) -> Disk:
    def text(key: str) -> str:
        return " ".join(str(entry.get(key) or "").split())

    number = text("maj:min")
    return Disk(
        path=text("path"),
        number=number,
        kind=text("type"),
        size=int(entry["size"] or 0),
        read_only=bool(entry["ro"]),
        removable=bool(entry["rm"]),
        hotplug=bool(entry["hotplug"]),
        transport=text("tran"),
        model=" ".join(part for part in (text("vendor"), text("model")) if part),
        serial=text("serial"),
        filesystem=text("fstype"),
        filesystem_bytes=int(entry.get("fssize") or 0),
        label=text("label"),
        mounts=tuple(mount for mount in entry.get("mountpoints") or () if mount),
        card=_sys_text(sys, number, "device/type") if text("name").startswith("mmcblk") else "",
        sequence=_sys_text(sys, number, "diskseq"),
        children=tuple(_disk(child, sys) for child in entry.get("children", ())),
    )


def _sys_text(sys: Path, number: str, name: str) -> str:
    try:
        return (sys / "dev/block" / number / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _mounts(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """major:minor, mount point and source of each line; proc(5)."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, source = left.split(), right.split()
        if len(fields) >= 5 and len(source) >= 2:
            yield fields[2], _unescape(fields[4]), _unescape(source[1])


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _number_of(source: str) -> set[str]:
    """The device itself, or the one that holds a file: btrfs and swap files hide theirs elsewhere."""
    if not source.startswith("/"):
        return set()
    try:
        status = Path(source).stat()
    except OSError:
        return set()
    device = status.st_rdev or status.st_dev
    return {f"{os.major(device)}:{os.minor(device)}"}


def _parents(number: str, sys: Path, depth: int) -> Iterator[str]:
    """The disk of a partition; what LVM, RAID and encryption lie on; what those lie on."""
    place = (sys / "dev/block" / number).resolve()
    if depth == 0 or not place.is_dir():
        return
    above = [place.parent] if (place / "partition").exists() else []
    slaves = place / "slaves"
    above += [slave.resolve() for slave in slaves.iterdir()] if slaves.is_dir() else []
    for device in above:
        try:
            parent = (device / "dev").read_text(encoding="ascii").strip()
        except OSError:
            continue
        yield parent
        yield from _parents(parent, sys, depth - 1)
