"""Which disks may be erased: every check against an lsblk, a sysfs and a mount table of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioning.image import blockdev, guards
from provisioning.image.blockdev import Disk, mounted_numbers, parse_lsblk, system_numbers
from provisioning.image.errors import RefusedError
from provisioning.image.guards import Facts, refusals

GB = 10**9


def lsblk_entry(**changes: Any) -> dict[str, Any]:
    """A 32 GB card with two partitions in a USB reader, as lsblk 2.38 prints it."""
    entry: dict[str, Any] = {
        "name": "sda", "path": "/dev/sda", "maj:min": "8:0", "type": "disk", "size": 32 * GB, "ro": False,
        "rm": True, "hotplug": True, "tran": "usb", "vendor": "Generic ", "model": "STORAGE DEVICE",
        "serial": "000000001536", "fstype": None, "fssize": None, "label": None, "mountpoints": [None],
        "children": [
            {
                "name": f"sda{number}", "path": f"/dev/sda{number}", "maj:min": f"8:{number}", "type": "part",
                "size": size, "ro": False, "rm": True, "hotplug": True, "tran": None, "vendor": None,
                "model": None, "serial": None, "fstype": kind, "fssize": None, "label": label,
                "mountpoints": [None],
            }
            for number, size, kind, label in ((1, GB // 2, "vfat", "bootfs"), (2, 31 * GB, "ext4", "rootfs"))
        ],
    }  # fmt: skip
    return entry | changes


def card(**changes: Any) -> Disk:
    """The same as a `Disk`."""
    (disk,) = parse_lsblk(json.dumps({"blockdevices": [lsblk_entry()]}), Path("/nowhere"))
    return replace(disk, **changes)


def facts(disk: Disk | None = None, **changes: Any) -> Facts:
    values: dict[str, Any] = {"image_bytes": 3 * GB, "system": frozenset(), "mounted": frozenset()}
    return Facts(disk or card(), **(values | changes))


def with_part(**changes: Any) -> Disk:
    """The card with something changed on its second partition."""
    disk = card()
    first, second = disk.children
    return replace(disk, children=(first, replace(second, **changes)))


def test_a_card_in_a_reader_may_be_erased() -> None:
    assert refusals(facts()) == []
    assert refusals(facts(image_bytes=None)) == []


REFUSED: dict[guards.Guard, list[tuple[Facts, str]]] = {
    guards.whole_disk: [(facts(card(kind=kind)), kind) for kind in ("part", "lvm", "rom", "crypt")],
    guards.not_the_system: [
        (facts(system=frozenset({"8:0"})), "running system"),
        (facts(system=frozenset({"8:2"})), "running system"),
        (facts(with_part(mounts=("[SWAP]",))), "running system"),
    ],
    guards.not_mounted: [
        (facts(card(mounts=("/media/anna/x",))), "mounted at /media/anna/x"),
        (facts(with_part(mounts=("/mnt",))), "/dev/sda2 is mounted at /mnt"),
        (facts(mounted=frozenset({"8:1"})), "/dev/sda1 is mounted"),  # in a mount table lsblk does not show
        (facts(with_part(children=(card(path="/dev/dm-0", mounts=("/srv",)),))), "/dev/dm-0 is mounted"),
    ],
    guards.writable: [(facts(card(read_only=True)), "lock switch")],
    guards.large_enough: [
        (facts(image_bytes=32 * GB + 1), "has 32000000000 bytes, the image 32000000001"),
        (facts(card(size=0)), "no medium"),
    ],
    guards.not_too_large: [(facts(card(size=256 * GB + 1)), "256 GB of a usual card")],
    guards.made_to_be_removed: [
        # A disk full of backups in a USB enclosure: hot-pluggable, on USB, and fixed.
        (facts(card(removable=False, hotplug=True, transport="usb")), "fixed disk"),
        (facts(card(removable=False, hotplug=False, transport="nvme")), "fixed disk"),
        (facts(card(removable=False, hotplug=True, transport="", card="MMC")), "fixed disk"),  # soldered
    ],
    guards.no_foreign_data: [
        *((facts(with_part(filesystem=kind)), kind) for kind in guards.ARRAY_MEMBERS),
        (facts(card(filesystem="LVM2_member", children=())), "LVM2_member"),
        (facts(with_part(filesystem_bytes=257 * GB)), "filesystem of 257 GB"),
    ],
}


@pytest.mark.parametrize(
    ("guard", "case", "words"),
    [(guard, *case) for guard, cases in REFUSED.items() for case in cases],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_check_alone_refuses(guard: guards.Guard, case: Facts, words: str) -> None:
    reason = guard(case)
    assert reason is not None and words in reason
    assert reason in refusals(case)
    assert guard(facts()) is None


def test_every_check_is_in_use() -> None:
    assert set(REFUSED) == {*guards.CERTAIN, *guards.LIKELY}


@pytest.mark.parametrize(
    "disk",
    [
        card(removable=True, hotplug=False, transport=""),
        card(removable=False, hotplug=False, transport="", card="SD"),
        card(removable=False, hotplug=True, transport="sata"),
        card(kind="loop", removable=False, hotplug=False, transport=""),
        card(size=256 * GB),
    ],
)
def test_what_else_is_a_card(disk: Disk) -> None:
    assert refusals(facts(disk)) == []


def test_only_the_serial_number_answers_and_only_what_is_likely() -> None:
    backup = card(removable=False, serial="WD-1234", size=4000 * GB)
    first, second, way_out = refusals(facts(backup))
    assert "4000 GB" in first and "fixed disk" in second and "--erase-serial WD-1234" in way_out
    assert refusals(facts(backup), frozenset({"WD-123", "wd-1234", ""})) == [first, second, way_out]
    assert refusals(facts(backup), frozenset({"WD-1234"})) == []
    nameless = card(removable=False, serial="")
    assert "no serial" in refusals(facts(nameless), frozenset({""}))[-1]
    system = facts(backup, system=frozenset({"8:2"}))
    assert refusals(system, frozenset({"WD-1234"})) == ["holds the running system"]
    assert not any("--erase-serial" in reason for reason in refusals(system))


# ---- what lsblk says ----


def test_lsblk_is_read_with_its_tree(tmp_path: Path) -> None:
    entry = lsblk_entry(**{"name": "mmcblk0", "maj:min": "179:0"})
    device = tmp_path / "dev/block/179:0"
    (device / "device").mkdir(parents=True)
    (device / "device/type").write_text("SD\n", encoding="ascii")
    (device / "diskseq").write_text("12\n", encoding="ascii")
    (disk,) = parse_lsblk(json.dumps({"blockdevices": [entry]}), tmp_path)
    assert (disk.card, disk.sequence, disk.model) == ("SD", "12", "Generic STORAGE DEVICE")
    assert [part.path for part in disk.all_parts()] == ["/dev/sda", "/dev/sda1", "/dev/sda2"]
    assert disk.children[1].label == "rootfs" and disk.mounts == ()


@pytest.mark.parametrize("text", ["", "{}", '{"blockdevices": [{}]}', '{"blockdevices": 3}', "[]"])
def test_an_lsblk_that_cannot_be_read_stops_everything(text: str) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        parse_lsblk(text)


def test_a_device_that_lsblk_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "_lsblk", lambda: json.dumps({"blockdevices": [lsblk_entry()]}))
    assert blockdev.find_disk(Path("/dev/sda2")).kind == "part"
    with pytest.raises(RefusedError, match="knows no such disk"):
        blockdev.find_disk(Path("/dev/sdz"))


def test_without_lsblk_no_disk_is_touched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match="lsblk is not installed"):
        blockdev.find_disk(Path("/dev/sda"))
    (tmp_path / "lsblk").write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    (tmp_path / "lsblk").chmod(0o755)
    with pytest.raises(RefusedError, match="lsblk failed"):
        blockdev.find_disk(Path("/dev/sda"))


# ---- what carries the system ----


class Sys:
    """A sysfs of disks, partitions and what is stacked on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev/block").mkdir(parents=True)

    def add(self, name: str, number: str, *, under: str = "", on: Sequence[str] = ()) -> None:
        """A device; `under` is the disk of a partition, `on` is what a stacked device lies on."""
        place = self.root / "devices" / under / name
        place.mkdir(parents=True)
        (place / "dev").write_text(f"{number}\n", encoding="ascii")
        if under:
            (place / "partition").write_text("1\n", encoding="ascii")
        (self.root / "dev/block" / number).symlink_to(place)
        (place / "slaves").mkdir()
        for slave in on:
            number = next(
                link.name for link in (self.root / "dev/block").iterdir() if link.resolve().name == slave
            )
            (place / "slaves" / slave).symlink_to((self.root / "dev/block" / number).resolve())


def mount(number: str, place: str, source: str = "/dev/none") -> str:
    return f"36 35 {number} / {place} rw,noatime master:1 - ext4 {source} rw\n"


@pytest.fixture
def sys_tree(tmp_path: Path) -> Sys:
    """/ is LVM on encryption on a RAID of sda2 and sdb1; sdc is a card; sdd has /home."""
    tree = Sys(tmp_path / "sys")
    for name, number in (("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32"), ("sdd", "8:48")):
        tree.add(name, number)
    for name, number, disk in (("sda2", "8:2", "sda"), ("sdb1", "8:17", "sdb"), ("sdd1", "8:49", "sdd")):
        tree.add(name, number, under=disk)
    tree.add("md0", "9:0", on=["sda2", "sdb1"])
    tree.add("dm-0", "254:0", on=["md0"])
    tree.add("dm-1", "254:1", on=["dm-0"])
    return tree


def test_everything_below_the_root_file_system_is_the_system(sys_tree: Sys) -> None:
    found = system_numbers(mount("254:1", "/") + mount("8:32", "/mnt"), "Filename Type\n", sys_tree.root)
    assert found == {"254:1", "254:0", "9:0", "8:2", "8:17", "8:0", "8:16"}


@pytest.mark.parametrize("place", blockdev.SYSTEM_MOUNTS)
def test_each_place_of_the_system_counts(place: str, sys_tree: Sys) -> None:
    assert system_numbers(mount("8:49", place), "", sys_tree.root) == {"8:49", "8:48"}


def test_a_device_behind_a_file_system_of_its_own_numbers(
    sys_tree: Sys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """btrfs gives its mounts numbers of no device: the source is asked."""
    monkeypatch.setattr(blockdev, "_number_of", lambda source: {"8:49"} if source == "/dev/sdd1" else set())
    text = mount("0:30", "/", "/dev/sdd1")
    assert system_numbers(text, "", sys_tree.root) == {"0:30", "8:49", "8:48"}
    assert mounted_numbers(text) == {"0:30", "8:49"}


def test_swap_counts(sys_tree: Sys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "_number_of", lambda source: {"8:2"} if source == "/dev/sda2" else set())
    swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n"
    assert system_numbers("", swaps, sys_tree.root) == {"8:2", "8:0"}


def test_a_mount_point_with_a_blank() -> None:
    assert mounted_numbers(mount("8:1", "/media/my\\040card") + "rubbish\n") == {"8:1"}


def test_a_file_stands_for_the_device_it_lies_on(tmp_path: Path) -> None:
    """A swap file: the disk below it is the system's."""
    file = tmp_path / "swap"
    file.write_bytes(b"")
    device = file.stat().st_dev
    assert blockdev._number_of(str(file)) == {f"{os.major(device)}:{os.minor(device)}"}
    assert blockdev._number_of(str(tmp_path / "none")) == set()


def test_the_system_of_this_machine_is_refused() -> None:
    """Whatever carries / here, if lsblk shows it, is not to be erased."""
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    numbers = system_numbers(mountinfo, Path("/proc/swaps").read_text(encoding="utf-8"))
    try:
        disks = parse_lsblk(blockdev._lsblk())
    except RefusedError as exc:
        pytest.skip(str(exc))
    ours = [disk for disk in disks if any(part.number in numbers for part in disk.all_parts())]
    if not ours:
        pytest.skip("the root file system lies on no disk that lsblk shows")
    for disk in ours:
        found = refusals(Facts(disk, 1, numbers, frozenset()), frozenset({disk.serial}))
        assert "holds the running system" in found
