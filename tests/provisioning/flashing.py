"""What the tests of flashing share: images, plans, folders with direct I/O, loop devices."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioning.image.plan import FlashPlan, plan_flash
from provisioning.image.sources import open_image
from provisioning.image.target import CHUNK, HELD_BACK

MIB = 1 << 20
SIZE = 2 * CHUNK + 3 * MIB + 513  # the last chunk is short and ends in the middle of a block


def image_bytes(size: int = SIZE) -> bytes:
    """A boot record's mark, noise, a stretch of zeros, noise."""
    noise = random.Random(size).randbytes(min(size, 2 * MIB))
    data = bytearray(size)
    data[: len(noise)] = noise
    data[-len(noise) :] = noise
    data[510:512] = b"\x55\xaa"
    return bytes(data)


def make_plan(
    image: Path, *targets: Path, sha256: str | None = None, names: tuple[str, ...] = ()
) -> FlashPlan:
    return plan_flash(open_image(image, sha256=sha256, no_hash=sha256 is None), targets, names=names)


def looks_unfinished(target: Path) -> bool:
    """No partition table, no boot record: the held-back part is empty, whatever follows it."""
    with target.open("rb") as file:
        return not file.read(HELD_BACK).strip(b"\0")


def flip(path: Path, position: int) -> None:
    """Change one bit on the medium."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
        file.flush()
        os.fsync(file.fileno())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose files can be read past the page cache."""
    probe = tmp_path / "probe"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("the temporary folder's file system has no direct I/O; set TMPDIR to another one")
    probe.unlink()
    return tmp_path


@contextmanager
def loop_device(backing: Path, size: int) -> Iterator[Path]:
    """A block device over a file; skips where this machine does not allow it."""
    with backing.open("wb") as file:
        file.truncate(size)
    result = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"no loop devices here: {result.stderr.strip()}")
    device = result.stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
