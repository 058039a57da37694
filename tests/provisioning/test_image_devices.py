"""Block devices, plans and the register: loop devices where the machine has them, and a card that lies."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.image import blockdev, capacity, plan
from provisioning.image import flash as flash_module
from provisioning.image.capacity import check_capacity, mark_places
from provisioning.image.errors import FlashError, RefusedError, VerifyError
from provisioning.image.flash import Outcome, flash
from provisioning.image.page_cache import resident_pages
from provisioning.image.plan import Destination, plan_flash, plan_plain, plan_text
from provisioning.image.register import known_cards, note_outcomes, note_start, read_register
from provisioning.image.sources import open_image
from provisioning.image.target import CHUNK, HELD_BACK, Target, open_target
from provisioning.image.verify import check_body
from provisioning.image.writer import write_body
from tests.provisioning.flashing import MIB, SIZE, flip, folder, image_bytes, loop_device, make_plan
from tests.provisioning.test_image_guards import card

__all__ = ["folder"]  # a fixture
LOOP_BYTES = 48 * MIB


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "os.img"
    path.write_bytes(image_bytes())
    return path


@pytest.fixture
def loop(folder: Path) -> Iterator[Path]:
    with loop_device(folder / "backing", LOOP_BYTES) as device:
        yield device


# ---- block devices ----


def test_a_block_device_is_written_read_back_and_shown(loop: Path, image: Path, folder: Path) -> None:
    old = bytearray(b"\xff" * LOOP_BYTES)
    (folder / "backing").write_bytes(old)
    made = make_plan(image, loop)
    assert "a loop device: a file" in plan_text(made)
    (outcome,) = flash(made)
    assert (outcome.state, outcome.reason, outcome.verified) == ("done", "", True)
    data = (folder / "backing").read_bytes()
    assert data[:SIZE] == image_bytes()
    assert data[SIZE + 511 : -MIB] == old[SIZE + 511 : -MIB]  # what the image does not cover stays
    assert not data[-MIB:].strip(b"\0")  # the copy of an old partition table does not


def test_a_partition_table_of_the_past_goes_first(
    loop: Path, image: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "backing").write_bytes(image_bytes(LOOP_BYTES))

    def stop(*_arguments: object) -> None:
        raise VerifyError("a counterfeit card")

    monkeypatch.setattr(flash_module, "check_capacity", stop)
    (outcome,) = flash(make_plan(image, loop))
    assert outcome.state == "unfinished" and outcome.reason == "a counterfeit card"
    assert not (folder / "backing").read_bytes()[:HELD_BACK].strip(b"\0")


def test_a_device_that_somebody_holds_is_refused(loop: Path, image: Path) -> None:
    made = make_plan(image, loop)
    held = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(RefusedError, match="in use by another program"):
            flash(made)
    finally:
        os.close(held)


def test_a_mounted_device_is_refused(loop: Path, image: Path, folder: Path) -> None:
    """By the plan, and were the plan older than the mount, when it is opened."""
    made = make_plan(image, loop)
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is missing: apt install e2fsprogs")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(loop)], check=True)
    place = folder / "mounted"
    place.mkdir()
    result = subprocess.run(["mount", str(loop), str(place)], capture_output=True, check=False)
    if result.returncode:
        pytest.skip(f"nothing can be mounted here: {result.stderr.decode().strip()}")
    try:
        before = (folder / "backing").read_bytes()
        with pytest.raises(RefusedError, match="is mounted"):
            make_plan(image, loop)
        with pytest.raises(RefusedError):
            flash(made)
        assert (folder / "backing").read_bytes()[:HELD_BACK] == before[:HELD_BACK]
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("change", [{"serial": "other"}, {"sequence": "1"}, {"size": 1}, {"number": "7:99"}])
def test_another_disk_under_the_same_name_is_refused(
    change: dict[str, str], loop: Path, image: Path, folder: Path
) -> None:
    made = make_plan(image, loop)
    (destination,) = made.destinations
    assert destination.disk is not None
    old = replace(destination, disk=replace(destination.disk, **change))  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="not the disk that was shown"):
        flash(replace(made, destinations=(old,)))
    assert not (folder / "backing").read_bytes().strip(b"\0")  # not touched


def test_a_device_smaller_than_the_image_is_refused(folder: Path, image: Path) -> None:
    with loop_device(folder / "small", 8 * MIB) as device:
        with pytest.raises(RefusedError, match=f"has {8 * MIB} bytes, the image {SIZE}"):
            make_plan(image, device)
        packed = folder / "os.img.gz"
        packed.write_bytes(__import__("gzip").compress(image_bytes(), 1))  # does not say how large it is
        (outcome,) = flash(make_plan(packed, device))
        assert outcome.state == "unfinished" and f"more than {8 * MIB} bytes" in outcome.reason
        assert not (folder / "small").read_bytes()[:HELD_BACK].strip(b"\0")


def test_what_the_cache_hides_is_found(loop: Path, folder: Path) -> None:
    """A bit flips on the medium while the page cache of the device still has what was meant."""
    disk = blockdev.find_disk(loop)
    target = open_target(loop, disk)
    try:
        target.blank_head()
        content, failed = write_body([image_bytes()], [target], lambda _count: None)
        assert failed == {}
        check_body(target, content, lambda _count: None)
        with loop.open("r+b", buffering=0) as device:
            device.seek(CHUNK)
            before = device.read(4096)
            flip(folder / "backing", CHUNK + 5)
            device.seek(CHUNK)
            assert device.read(4096) == before  # a buffered read-back sees nothing
            assert resident_pages(device.fileno(), LOOP_BYTES) > 0
        with pytest.raises(VerifyError, match=f"between bytes {CHUNK} and {2 * CHUNK}"):
            check_body(target, content, lambda _count: None)
        target.drop_cache()
        with loop.open("r+b", buffering=0) as device:
            assert resident_pages(device.fileno(), LOOP_BYTES) == 0
            device.seek(CHUNK)
            assert device.read(4096) != before
    finally:
        target.close()


def test_the_cache_of_a_file_is_dropped_or_said_not_to_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "card.img"
    path.write_bytes(image_bytes())
    target = open_target(path, None)
    with path.open("r+b") as file:
        assert resident_pages(file.fileno(), SIZE) > 0
        target.drop_cache()
        assert resident_pages(file.fileno(), SIZE) == 0
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    monkeypatch.setattr("provisioning.image.target.DROP_PAUSE_S", 0)
    path.read_bytes()
    with pytest.raises(VerifyError, match="stay in the page cache"):
        target.drop_cache()
    target.close()


def test_two_writers_of_one_file(folder: Path, image: Path) -> None:
    target = open_target(folder / "card.img", None)
    with pytest.raises(RefusedError, match="in use by another program"):
        flash(make_plan(image, folder / "card.img"))
    target.close()


# ---- cards that lie ----


class Counterfeit(Target):
    """Claims more than it holds: what lies beyond runs over the beginning, or is forgotten."""

    true_bytes = 16 * MIB
    forgets = False

    def write(self, data: memoryview, position: int) -> None:
        if position < self.true_bytes:
            super().write(data, position)
        elif not self.forgets:
            super().write(data, position % self.true_bytes)

    def read(self, into: memoryview, position: int) -> int:
        if position >= self.true_bytes and self.forgets:
            into[:] = bytes(len(into))
            return len(into)
        return super().read(into, position % self.true_bytes)


def a_counterfeit(folder: Path, claimed: int, *, forgets: bool) -> Counterfeit:
    path = folder / "counterfeit"
    path.write_bytes(bytes(Counterfeit.true_bytes))
    target = Counterfeit(path, os.open(path, os.O_RDWR | os.O_DIRECT), disk=None, direct=True)
    target.disk = card(size=claimed)
    target.forgets = forgets
    return target


@pytest.mark.parametrize("forgets", [True, False])
def test_a_card_that_claims_more_than_it_holds(forgets: bool, folder: Path) -> None:
    target = a_counterfeit(folder, 64 * 10**9, forgets=forgets)
    with pytest.raises(VerifyError, match=r"says that it has 64\.0 GB"):
        check_capacity(target)
    target.close()
    honest = a_counterfeit(folder, Counterfeit.true_bytes, forgets=False)
    check_capacity(honest)
    honest.close()


def test_marks_reach_the_end_and_the_powers_of_two() -> None:
    places = mark_places(3 << 30, 512)
    assert places == [CHUNK, 1 << 30, 2 << 30, (3 << 30) - capacity.MARK]
    assert mark_places(32 * 10**9 + 512, 512)[-1] == 32 * 10**9 + 512 - capacity.MARK


# ---- plans ----


def refused(image: Path, *targets: Path, names: tuple[str, ...] = ()) -> str:
    with pytest.raises(RefusedError) as caught:
        make_plan(image, *targets, names=names)
    return str(caught.value)


def test_targets_that_make_no_sense(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder / "card.img"
    (folder / "link").symlink_to(target)
    assert "given twice" in refused(image, target, folder / "link")
    assert "2 names for 1 devices" in refused(image, target, names=("pi-1", "pi-2"))
    assert "is the image itself" in refused(image, image)
    assert "neither a disk nor a regular file" in refused(image, folder)
    assert "neither a disk nor a regular file" in refused(image, Path("/dev/null"))
    assert "no such device" in refused(image, Path("/dev/sdzz9"))
    assert "there is no folder" in refused(image, folder / "none" / "card.img")
    assert not target.exists()
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _path: _Usage(SIZE - 1))
    assert f"{SIZE - 1} bytes are free" in refused(image, target)


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_disk_is_refused_with_all_its_reasons(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = card(size=1000, read_only=True)
    monkeypatch.setattr(plan, "_look", lambda _path, _image: disk)
    text = refused(image, Path("/dev/sda"))
    assert text.startswith("/dev/sda is not erased: is read-only") and "has 1000 bytes" in text


def test_the_plan_shows_what_is_lost(image: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_look", lambda path, _image: None if path.suffix else card())
    made = plan_flash(
        open_image(image, no_hash=True), [Path("/dev/sda"), folder / "a.img"], names=("pi-1", "pi-2")
    )
    text = plan_text(made)
    for words in (
        "hash not checked", "/dev/sda: 32.0 GB, Generic STORAGE DEVICE, serial 000000001536, usb",
        "card of pi-1", "/dev/sda2  31000 MB  ext4  rootfs", "a new file", "card of pi-2",
    ):  # fmt: skip
        assert words in text
    first, second = plan_plain(made)["targets"]
    assert (first["kind"], first["disk"]["serial"]) == ("disk", "000000001536")
    assert (second["kind"], second["disk"], second["name"]) == ("file", None, "pi-2")


# ---- the register ----


def test_one_row_for_each_pi(image: Path, folder: Path) -> None:
    register = folder / "register.csv"
    made = make_plan(image, folder / "a.img", folder / "b.img", names=("pi-1", "pi-2"))
    assert read_register(register) == []
    note_start(register, made)
    assert [(row["name"], row["state"]) for row in read_register(register)] == [
        ("pi-1", "writing"), ("pi-2", "writing"),
    ]  # fmt: skip
    done = Outcome(made.destinations[0], "done", verified=True, personalised=True, sha256="ab")
    failed = Outcome(made.destinations[1], reason="a bad card, or reader")
    note_outcomes(register, made, [done, failed])
    note_outcomes(register, made, [done])  # again: the row is replaced
    first, second = read_register(register)
    assert (first["name"], first["state"], first["verified"], first["image_sha256"]) == (
        "pi-1", "done", "yes", "ab",
    )  # fmt: skip
    assert (second["state"], second["reason"], second["verified"]) == (
        "unfinished", "a bad card, or reader", "no",
    )  # fmt: skip


def test_a_card_that_is_another_pis_is_remarked(image: Path, folder: Path) -> None:
    register = folder / "register.csv"
    made = make_plan(image, folder / "a.img", names=("pi-1",))
    sd = Destination(Path("/dev/mmcblk0"), card(card="SD", serial="0x1234"), "pi-1")
    reader = Destination(Path("/dev/sda"), card(), "pi-1")
    note_start(register, replace(made, destinations=(sd,)))
    rows = read_register(register)
    assert known_cards(rows, replace(made, destinations=(sd,))) == []
    other = replace(made, destinations=(replace(sd, name="pi-2"), replace(reader, name="pi-2")))
    (remark,) = known_cards(rows, other)
    assert "/dev/mmcblk0 was written for pi-1" in remark


def test_another_csv_file_is_not_overwritten(image: Path, folder: Path) -> None:
    register = folder / "register.csv"
    register.write_text("name,price\nx,1\n", encoding="utf-8")
    with pytest.raises(FlashError, match="not a register"):
        note_start(register, make_plan(image, folder / "a.img"))
    assert register.read_text(encoding="utf-8") == "name,price\nx,1\n"
