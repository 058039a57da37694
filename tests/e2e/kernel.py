"""Debian's own arm64 kernel and a small initial RAM disk, for the image to be booted without a firmware.

A Pi's firmware reads config.txt and starts the kernel from the card. QEMU is given the kernel instead; from
`root=PARTUUID=...` on everything is the card's own.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cache import Cache, digest
from tests.e2e.debian import Packages
from tests.e2e.shell import RigError, run

SUITE = "trixie"
INIT = Path(__file__).with_name("init.sh")
AT_START = ("virtio_pci", "virtio_mmio", "virtio_blk", "ext4")  # what finds and mounts the root
IN_THE_IMAGE = (  # the rest of 90 MB of modules drives hardware that the emulated board does not have
    "fs",
    "net",
    "lib",
    "crypto",
    "arch",
    "drivers/block",
    "drivers/char",
    "drivers/net/net_failover.ko.xz",
    "drivers/net/virtio_net.ko.xz",
    "drivers/virtio",
)


@dataclass(frozen=True)
class Kernel:
    """What QEMU starts, and the modules that the image carries for it."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.gz"

    @property
    def modules(self) -> Path:
        """A folder with ``lib/modules/VERSION``."""
        return self.folder / "modules"


def get_kernel(cache: Cache) -> Kernel:
    """The kernel that is kept, downloaded the first time."""
    recipe = [SUITE, AT_START, IN_THE_IMAGE, digest(INIT.read_text())]
    return Kernel(cache.get("kernel", recipe, _build))


def _build(folder: Path) -> None:
    kernel = Kernel(folder)
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder.parent) as text:
        scratch = Path(text)
        packages = Packages(scratch / "apt", SUITE, "arm64")
        version = packages.unpack("linux-image-arm64", scratch / "kernel").removeprefix("linux-image-")
        packages.unpack("busybox-static", scratch / "busybox")
        shutil.copy(scratch / "kernel/boot" / f"vmlinuz-{version}", kernel.image)
        _copy_modules(scratch / "kernel", kernel.modules, version)
        busybox = next((scratch / "busybox").glob("usr/bin/busybox"))
        _write_initrd(busybox, kernel, version, scratch / "initrd")


def _copy_modules(source: Path, target: Path, version: str) -> None:
    (found,) = source.glob(f"**/lib/modules/{version}")
    folder = target / "lib/modules" / version
    folder.mkdir(parents=True)
    for listing in found.glob("modules.*"):
        shutil.copy(listing, folder)
    for part in IN_THE_IMAGE:
        wanted, copy = found / "kernel" / part, folder / "kernel" / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if wanted.is_dir():
            shutil.copytree(wanted, copy)
        else:
            shutil.copy(wanted, copy)
    run("depmod", "-b", target, version)


def _write_initrd(busybox: Path, kernel: Kernel, version: str, folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "modules").mkdir()
    shutil.copy(busybox, folder / "bin/busybox")
    shutil.copy(INIT, folder / "init")
    (folder / "init").chmod(0o755)
    for number, module in enumerate(_with_dependencies(kernel.modules, version)):
        plain = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
        (folder / "modules" / f"{number:02}-{module.name.partition('.')[0]}.ko").write_bytes(plain)
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input=names.encode(),
        cwd=folder,
        capture_output=True,
        check=True,
    )
    kernel.initrd.write_bytes(gzip.compress(packed.stdout))


def _with_dependencies(root: Path, version: str) -> list[Path]:
    """Modules in the order in which they are loaded; those that are built in need nothing."""
    found: list[Path] = []
    for name in AT_START:
        lines = run("modprobe", "-d", root, "-S", version, "--show-depends", name).splitlines()
        found += [Path(line.split()[1]) for line in lines if line.startswith("insmod")]
    if not found:
        raise RigError(f"no modules found for {', '.join(AT_START)} in {root}")
    return list(dict.fromkeys(found))
