"""What a flash would do, checked before anything is opened for writing: shown first, then carried out."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provisioning.image.blockdev import Disk, find_disk, mounted_numbers, system_numbers
from provisioning.image.errors import RefusedError
from provisioning.image.guards import Facts, refusals
from provisioning.image.sources import Image

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Destination:
    """One target: a disk, or a regular file (`disk` is None), and whose card it will be."""

    path: Path
    disk: Disk | None
    name: str = ""

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.path} ({self.name})" if self.name else str(self.path)


@dataclass(frozen=True, slots=True)
class FlashPlan:
    """An image and where it goes."""

    image: Image
    destinations: tuple[Destination, ...]
    erase_serials: frozenset[str] = frozenset()


def plan_flash(
    image: Image,
    devices: Sequence[Path],
    *,
    names: Sequence[str] = (),
    erase_serials: frozenset[str] = frozenset(),
) -> FlashPlan:
    """Look at every target.

    Raises:
        RefusedError: one of them may not be erased, with all the reasons; or the same one twice.
    """
    if names and len(names) != len(devices):
        raise RefusedError(f"{len(names)} names for {len(devices)} devices: give one of each for each card")
    places = [os.path.realpath(device) for device in devices]
    if len(set(places)) != len(places):
        raise RefusedError("the same device is given twice")
    labels = names or [""] * len(devices)
    found = [Destination(path, _look(path, image), name) for path, name in zip(devices, labels, strict=True)]
    for destination in found:
        check_destination(destination, image, erase_serials)
    return FlashPlan(image, tuple(found), erase_serials)


def check_destination(destination: Destination, image: Image, erase_serials: frozenset[str]) -> None:
    """All guards, with the facts of this moment.

    Raises:
        RefusedError: with every reason.
    """
    if destination.disk is None:
        return
    mountinfo = (PROC / "self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    swaps = (PROC / "swaps").read_text(encoding="utf-8", errors="surrogateescape")
    facts = Facts(destination.disk, image.size, system_numbers(mountinfo, swaps), mounted_numbers(mountinfo))
    if reasons := refusals(facts, erase_serials):
        raise RefusedError(f"{destination.path} is not erased: {'; '.join(reasons)}")


def _look(path: Path, image: Image) -> Disk | None:
    """The disk at a path; None for a regular file, there already or to be made."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise RefusedError(f"{path}: there is no folder {path.parent}") from None
        mode = stat.S_IFREG
    if stat.S_ISBLK(mode):
        return find_disk(path)
    if not stat.S_ISREG(mode):
        raise RefusedError(f"{path} is neither a disk nor a regular file")
    _check_file(path, image)
    return None


def _check_file(path: Path, image: Image) -> None:
    if Path("/dev") in Path(os.path.realpath(path)).parents:
        raise RefusedError(f"{path}: there is no such device, and no file is made in /dev")
    if path.exists() and path.samefile(image.path):
        raise RefusedError(f"{path} is the image itself")
    old = path.stat().st_blocks * 512 if path.exists() else 0
    free = shutil.disk_usage(path.parent).free + old
    if image.size is not None and image.size > free:
        raise RefusedError(f"{path}: {free} bytes are free, the image has {image.size}")


# ---- for people and programs ----


def plan_text(plan: FlashPlan) -> str:
    """The plan for a person."""
    image = plan.image
    size = f"{image.size / 1e6:.0f} MB" if image.size is not None else "a size that it does not declare"
    digest = f"SHA-256 {image.sha256}" if image.sha256 else "hash not checked (--no-hash)"
    lines = [f"image   {image.path} ({image.kind}, {size}), {digest}"]
    for destination in plan.destinations:
        lines += ["", *_destination_lines(destination)]
    return "\n".join(lines)


def _destination_lines(destination: Destination) -> list[str]:
    head = f"target  {destination.path}"
    name = [f"        card of {destination.name}"] if destination.name else []
    disk = destination.disk
    if disk is None:
        state = "an existing file, replaced" if destination.path.exists() else "a new file"
        return [f"{head}: {state}", *name]
    serial = f"serial {disk.serial}" if disk.serial else "no serial"
    model = disk.model or ("a loop device: a file" if disk.kind == "loop" else "unknown model")
    how = disk.transport or disk.card
    facts = f"{disk.size / 1e9:.1f} GB, {model}, {serial}{', ' + how if how else ''}"
    parts = [
        f"        {part.path}  {part.size / 1e6:.0f} MB  {part.filesystem or 'empty'}  {part.label}".rstrip()
        for part in disk.all_parts()
        if part is not disk
    ]
    contents = ["        everything on it is erased:", *parts] if parts else ["        no partitions"]
    return [f"{head}: {facts}", *name, *contents]


def plan_plain(plan: FlashPlan) -> dict[str, Any]:
    """The plan for a program."""
    image = plan.image
    return {
        "image": str(image.path),
        "kind": image.kind,
        "bytes": image.size,
        "sha256": image.sha256,
        "targets": [
            {
                "device": str(destination.path),
                "name": destination.name,
                "kind": "disk" if destination.disk else "file",
                "disk": asdict(destination.disk) if destination.disk else None,
            }
            for destination in plan.destinations
        ],
    }
