"""Debian for another processor: root file systems by mmdebstrap, single packages by apt."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.e2e.cache import Cache
from tests.e2e.shell import KEYRING, RigError, run

MIRROR = "http://deb.debian.org/debian"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
QEMU = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
BUILD_S = 3600.0


@dataclass(frozen=True)
class Debian:
    """A root file system: the release, the processor, the packages beside the essential ones."""

    suite: str
    architecture: str
    packages: tuple[str, ...]


# What Raspberry Pi OS Lite has of what first boot and the client touch. No kernel: building its initial
# RAM disk takes longer under emulation than everything else together.
PI_OS_LITE = Debian(
    "trixie",
    "arm64",
    (
        *("systemd", "systemd-sysv", "udev", "dbus"),
        *("cloud-init", "netplan.io", "network-manager"),
        *("iproute2", "openssh-server", "python3", "python3-venv"),
        *("ca-certificates", "systemd-timesyncd", "sudo", "kmod"),
        *("e2fsprogs", "dosfstools", "cloud-guest-utils"),
        *("fdisk", "rfkill", "locales", "keyboard-configuration", "tzdata"),
    ),
)


def root_tar(cache: Cache, debian: Debian) -> Path:
    """The root file system as a tar file; ten CPU minutes the first time."""
    return cache.get(f"root-{debian.architecture}.tar", asdict(debian), lambda path: _build(debian, path))


def _build(debian: Debian, path: Path) -> None:
    if os.geteuid() != 0:
        raise RigError(
            "the root file system is built by root (mmdebstrap --mode=root); once, then it is kept"
        )
    enable_emulation(debian.architecture)
    run(
        "nice",
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=tar",
        f"--architectures={debian.architecture}",
        f"--keyring={KEYRING.parent}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        f"--include={','.join(debian.packages)}",
        debian.suite,
        path,
        MIRROR,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},  # a chroot would inherit this machine's settings
        timeout_s=BUILD_S,
    )


def enable_emulation(architecture: str) -> None:
    """Let the kernel run this processor's programs through qemu."""
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
    if not (BINFMT / QEMU[architecture]).exists():
        run("update-binfmts", "--enable", QEMU[architecture])
    run("arch-test", architecture)


@dataclass(frozen=True)
class Packages:
    """Downloads single packages of a release under a state of its own."""

    folder: Path
    suite: str
    architecture: str

    def unpack(self, name: str, into: Path) -> str:
        """Download and unpack a package, or the one that `name` stands for; its name."""
        self._prepare()
        real = self._behind(name)
        run("apt-get", *self._options(), "download", real, cwd=self.folder)
        for package in self.folder.glob(f"{real}_*.deb"):
            run("dpkg-deb", "-x", package, into)
            package.unlink()
        return real

    def _behind(self, name: str) -> str:
        """A metapackage such as linux-image-arm64 stands for the one it depends on."""
        for line in run("apt-cache", *self._options(), "depends", name).splitlines():
            kind, _, target = line.strip().partition(": ")
            if kind == "Depends" and target.startswith(name.rsplit("-", 1)[0]):
                return target
        return name

    def _prepare(self) -> None:
        if (self.folder / "sources.list").exists():
            return
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {self.suite} main\n")
        run("apt-get", *self._options(), "update")

    def _options(self) -> list[str]:
        folder = self.folder.resolve()
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "Dir::State::lists": str(folder / "lists"),
            "Dir::State::status": str(folder / "status"),
            "Dir::Cache": str(folder / "cache"),
            "Dir::Etc::sourcelist": str(folder / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
        }
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
