"""Small images that look like Raspberry Pi OS to whoever personalises them, made without root in 0.1 s."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_client.config import DataConfig
from provisioning.card import Card, Endpoint, EnrolmentToken, FleetAccess, Secret, Wifi
from provisioning.customise.layout import SECTOR, TABLE
from provisioning.customise.tools import have_tool
from provisioning.pki.certificates import self_signed
from provisioning.wheelhouse.archive import ARCHIVE_FILE, SITE, Client, write_archive
from provisioning.wheelhouse.lock import Lock, file_sha256, item_of, write_lock

BOOT_AT, BOOT_BYTES, ROOT_BYTES = 1 << 20, 40 << 20, 16 << 20
ROOT_AT = BOOT_AT + BOOT_BYTES
CHUNK = 1 << 20
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq1x0rP9vY6uVtq2Zl8mB4cD5eF6gH7iJ8kL9mN0oPq anna@desk"
HASH = "$6$c2FsdHNhbHQ$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ./0123456789"
CMDLINE = b"console=tty1 root=PARTUUID=4d3f2e1c-02 rootfstype=ext4 fsck.repair=yes rootwait"
BOOKWORM_CMDLINE = CMDLINE + b" quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"

needs_tools = [
    pytest.mark.skipif(not have_tool(tool), reason=f"{tool} is missing: apt install {package}")
    for tool, package in (
        ("mcopy", "mtools"),
        ("mkfs.vfat", "dosfstools"),
        ("debugfs", "e2fsprogs"),
        ("mke2fs", "e2fsprogs"),
    )
]
_CA: dict[str, str] = {}


def ca_pem() -> str:
    """A fleet's authority, made once."""
    if not _CA:
        key = ec.generate_private_key(ec.SECP256R1())
        _CA["pem"] = self_signed(key, "ward", datetime.now(UTC)).decode()
    return _CA["pem"]


def wifi(**changes: object) -> Wifi:
    values: dict[str, object] = {"ssid": "ward net", "country": "DE", "passphrase": Secret("correct horse")}
    return Wifi(**(values | changes))  # type: ignore[arg-type]


def a_card(**changes: object) -> Card:
    """A card of the fleet ``ward`` for trixie, by cable, with a token."""
    values: dict[str, object] = {
        "name": "pi-1",
        "target": "trixie-arm64",
        "access": FleetAccess(
            fleet="ward",
            server_key="ab" * 32,
            broker=Endpoint("broker.local", 8883),
            ca=ca_pem(),
            enrolment=Endpoint("broker.local", 8884),
        ),
        "identity": EnrolmentToken(Secret("one-time-token-of-pi-1")),
        "data": DataConfig("folder:/srv/images"),
        "ssh_keys": (SSH_KEY,),
    }
    return Card(**(values | changes))  # type: ignore[arg-type]


def make_image(path: Path, boot: dict[str, bytes], root: dict[str, bytes] | None) -> Path:
    """An image with an MBR, a FAT32 with `boot` in it and, unless None, an ext4 with `root` in it."""
    with path.open("wb") as file:
        file.truncate(ROOT_AT + ROOT_BYTES)
        file.seek(TABLE)
        file.write(_entry(0x0C, BOOT_AT, BOOT_BYTES))
        if root is not None:
            file.write(_entry(0x83, ROOT_AT, ROOT_BYTES))
        file.seek(510)
        file.write(b"\x55\xaa")
    sectors = BOOT_BYTES // 1024
    tool("mkfs.vfat", "-F", "32", "-s", "1", "-n", "BOOTFS", "--offset", BOOT_AT // SECTOR, path, sectors)
    stage = path.with_suffix(".stage")
    for name, data in boot.items():
        place = stage / "boot" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    tool("mcopy", "-i", f"{path}@@{BOOT_AT}", "-s", "-Q", *(stage / "boot").iterdir(), "::/")
    if root is not None:
        _make_root(path, stage / "root", root)
    shutil.rmtree(stage)
    return path


def _make_root(path: Path, stage: Path, root: dict[str, bytes]) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    for name, data in root.items():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_bytes(data)
    options = f"offset={ROOT_AT},root_owner=0:0"
    tool("mke2fs", "-q", "-t", "ext4", "-E", options, "-d", stage, path, f"{ROOT_BYTES // 1024}k")


def trixie_image(path: Path) -> Path:
    """As Raspberry Pi OS trixie of 64 bits: cloud-init's seed on the boot partition."""
    seed = dict.fromkeys(("user-data", "meta-data", "network-config"), b"# as shipped\n")
    return make_image(path, {"cmdline.txt": CMDLINE + b" resize\n", **seed}, system("trixie", "arm64"))


def bookworm_image(path: Path, architecture: str = "arm64") -> Path:
    """As Raspberry Pi OS bookworm."""
    return make_image(path, {"cmdline.txt": BOOKWORM_CMDLINE}, system("bookworm", architecture))


def preseed_image(path: Path) -> Path:
    """As an image with rpi-preseed, which shows only in its root file system."""
    root = {**system("trixie", "arm64"), "usr/bin/rpi-preseed": b"#!/bin/sh\n"}
    return make_image(path, {"cmdline.txt": CMDLINE + b"\n"}, root)


def system(codename: str, architecture: str) -> dict[str, bytes]:
    """The files by which a root file system says what it is."""
    loader = {"arm64": "ld-linux-aarch64.so.1", "armhf": "ld-linux-armhf.so.3"}[architecture]
    return {
        "usr/lib/os-release": f'ID=debian\nVERSION_CODENAME="{codename}"\n'.encode(),
        f"usr/lib/{loader}": b"\x7fELF",
        "etc/systemd/system.conf": b"",
    }


def check_file_systems(path: Path) -> None:
    """fsck's word on both partitions; any complaint fails."""
    for name, start, size, command in (
        ("boot", BOOT_AT, BOOT_BYTES, ("fsck.vfat", "-n")),
        ("root", ROOT_AT, ROOT_BYTES, ("e2fsck", "-f", "-n")),
    ):
        part = path.with_suffix(f".{name}")
        with path.open("rb") as image, part.open("wb") as file:
            file.truncate(size)
            for at in range(0, size, CHUNK):
                image.seek(start + at)
                if (data := image.read(CHUNK)).strip(b"\0"):  # holes stay holes
                    file.seek(at)
                    file.write(data)
        tool(*command, part)


def tool(name: str, *arguments: object) -> str:
    """Run a tool of the system and fail with its words."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLS_SKIP_CHECK": "1"}
    command = [name, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def one_byte_changed(path: Path, wanted: bytes) -> None:
    """Flip a bit of the only place where `wanted` stands."""
    data = path.read_bytes()
    assert data.count(wanted) == 1
    at = data.index(wanted)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("B", data[at] ^ 1))


def _entry(kind: int, start: int, size: int) -> bytes:
    return struct.pack("<4xB3xII", kind, start // SECTOR, size // SECTOR)


def make_wheelhouse(folder: Path, target: str = "trixie-arm64") -> Path:
    """A wheelhouse whose client is two small files."""
    site = folder / SITE
    for name, text in (("edge_client/__init__.py", ""), ("edge_client/cli.py", "print('client')\n")):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    write_archive(Client("0.1.0", 1, target, "3.13", False), site, folder / ARCHIVE_FILE)
    wheel = folder / "own.whl"
    wheel.write_bytes(b"a wheel")
    lock = Lock(
        target=target,
        python="3.13",
        client="0.1.0",
        build=1,
        source="0" * 64,
        bytecode=False,
        archive=file_sha256(folder / ARCHIVE_FILE),
        items=(item_of(wheel, "wheel", "bramble", "0.1.0"),),
    )
    write_lock(folder, lock)
    return folder
