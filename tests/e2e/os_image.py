"""The "operating system image" that is flashed: Debian laid out as Raspberry Pi OS trixie lays its own out.

Master boot record; a FAT32 partition `bootfs` at 8 MiB with cmdline.txt and cloud-init's seed; an ext4
partition `rootfs`. Made without mounts or loop devices (mtools, ``mke2fs -d``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.e2e.cache import Cache, digest
from tests.e2e.debian import PI_OS_LITE, enable_emulation, root_tar
from tests.e2e.kernel import get_kernel
from tests.e2e.shell import run

LAYOUT = Path(__file__).with_name("pi_os")
DISK = "b7a3be11"  # the disk's signature: root=PARTUUID=b7a3be11-02
MIB = 1 << 20
BOOT_AT, BOOT_SIZE = 8 * MIB, 512 * MIB
SECTOR = 512
DISABLED = ("ssh.service", "ssh.socket", "systemd-networkd.service", "systemd-networkd-wait-online.service")
TIMERS = ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "fstrim")
ENABLED = ("regenerate_ssh_host_keys.service",)
ONLY_ROOT = ("etc/netplan/00-network-manager-all.yaml",)
COMPRESS = ("xz", "-T0", "-2", "--block-size=16MiB")


def get_os_image(cache: Cache) -> Path:
    """The image as it would be downloaded, compressed with xz."""
    tar, kernel = root_tar(cache, PI_OS_LITE), get_kernel(cache)
    layout = {str(path.relative_to(LAYOUT)): path.read_text() for path in LAYOUT.rglob("*") if path.is_file()}
    recipe = [asdict(PI_OS_LITE), kernel.folder.name, layout, digest(Path(__file__).read_text())]
    return cache.get("pi-os.img.xz", recipe, lambda path: _build(tar, kernel.modules, path))


def _build(tar: Path, modules: Path, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as text:
        scratch = Path(text)
        root, boot = scratch / "root", scratch / "boot"
        root.mkdir()
        run("tar", "-xf", tar, "-C", root)
        shutil.copytree(LAYOUT / "bootfs", boot)
        _lay_out(root, boot, modules)
        _write_image(root, boot, scratch / "pi-os.img")
        run(*COMPRESS, scratch / "pi-os.img")
        (scratch / "pi-os.img.xz").rename(path)


def _lay_out(root: Path, boot: Path, modules: Path) -> None:
    """Turn a plain Debian root into one like Raspberry Pi OS's."""
    (root / "boot/firmware").mkdir(parents=True, exist_ok=True)
    shutil.copytree(LAYOUT / "root", root, dirs_exist_ok=True)
    shutil.copytree(modules / "lib/modules", root / "usr/lib/modules", dirs_exist_ok=True)
    for file in (root / "etc/fstab", boot / "cmdline.txt"):
        file.write_text(file.read_text().replace("DISK", DISK))
    for name in ONLY_ROOT:
        (root / name).chmod(0o600)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    enable_emulation(PI_OS_LITE.architecture)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SYSTEMD_OFFLINE": "1"}
    for words in (
        ("systemctl", "disable", *DISABLED),
        ("systemctl", "mask", *(f"{name}.timer" for name in TIMERS)),
        ("systemctl", "enable", *ENABLED),
        ("locale-gen",),
    ):
        run("chroot", root, *words, env=environment)


def _write_image(root: Path, boot: Path, image: Path) -> None:
    """Partition the file, make both file systems in it, and fill them."""
    root_at = BOOT_AT + BOOT_SIZE
    content = sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
    root_size = int(content * 1.2 + 200 * MIB) // MIB * MIB  # as Raspberry Pi OS's own builder reckons
    image.touch()
    os.truncate(image, root_at + root_size)
    table = (
        f"label: dos\nlabel-id: 0x{DISK}\n"
        f"start={BOOT_AT // SECTOR}, size={BOOT_SIZE // SECTOR}, type=c\n"
        f"start={root_at // SECTOR}, size={root_size // SECTOR}, type=83\n"
    )
    run("sfdisk", "--quiet", image, stdin=table)
    run(
        *("mkfs.vfat", "-F", "32", "-s", "4", "-n", "bootfs", "--offset", BOOT_AT // SECTOR),
        *(image, BOOT_SIZE // 1024),
    )
    run("mcopy", "-i", f"{image}@@{BOOT_AT}", *sorted(boot.iterdir()), "::")
    run(
        *("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-O", "^huge_file,^metadata_csum_seed"),
        *("-d", root, "-E", f"offset={root_at}", image, f"{root_size // 1024}k"),
    )
