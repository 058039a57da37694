"""The emulated Pi: QEMU, the card as its disk, a network that reaches given ports of this machine only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.card import boot_file
from tests.e2e.kernel import Kernel
from tests.e2e.shell import RigError, run

WORKSTATION = "10.0.2.100"  # the address under which the guest knows this machine
LABEL = "emulated (qemu TCG)"
CORES, MEMORY_MB = 2, 1024
LOOK_EVERY_S = 1.0


@dataclass
class Machine:
    """One emulated board.

    Args:
        card: the flashed image; it is written to.
        ports: the guest's port at `WORKSTATION` -> the port on this machine's loopback.
        ssh_port: on this machine's loopback, leads to the guest's SSH server.
    """

    card: Path
    kernel: Kernel
    folder: Path
    ports: dict[int, int]
    ssh_port: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def console_file(self) -> Path:
        return self.folder / "console.log"

    def start(self) -> None:
        """Power on; times count from the first time."""
        self.started = self.started or time.monotonic()
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def uptime_s(self) -> float:
        return time.monotonic() - self.started

    def cpu_s(self) -> float:
        """Processor seconds that the emulation has taken so far, its helpers left out."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def console(self) -> str:
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def wait_for(self, what: str, condition: Callable[[], object], timeout_s: float) -> float:
        """Wait until a condition holds; seconds since power-on.

        Raises:
            RigError: it did not hold in time, or the machine went off; with the end of the console.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process is None or self.process.poll() is not None:
                raise RigError(f"{what}: the machine went off\n{self.console()[-3000:]}")
            if time.monotonic() > deadline:
                raise RigError(f"{what}: not within {timeout_s:g} s\n{self.console()[-3000:]}")
            time.sleep(LOOK_EVERY_S)
        return self.uptime_s()

    def stop(self) -> None:
        """Pull the plug."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _command(self) -> list[str]:
        drive = f"file={self.card},format=raw,if=none,id=card,cache=unsafe"
        return [
            *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", str(CORES)),
            *("-m", str(MEMORY_MB), "-accel", "tcg,thread=multi,tb-size=256"),
            *("-kernel", str(self.kernel.image), "-initrd", str(self.kernel.initrd)),
            *("-append", kernel_arguments(self.card)),
            *("-drive", drive, "-device", "virtio-blk-pci,drive=card", "-device", "virtio-rng-pci"),
            *("-netdev", self._network(), "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-display", "none", "-monitor", "none", "-serial", f"file:{self.console_file}", "-no-reboot"),
        ]

    def _network(self) -> str:
        """Closed but for the given ports. One process a connection: `-tcp:` would share a single one."""
        forwards = [
            f"guestfwd=tcp:{WORKSTATION}:{guest}-cmd:busybox nc 127.0.0.1 {host}"
            for guest, host in self.ports.items()
        ]
        return ",".join(["user,id=net,restrict=on", f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22", *forwards])


def kernel_arguments(card: Path) -> str:
    """The card's own cmdline.txt, as the firmware would hand it over, with the emulated board's console."""
    words = [word for word in boot_file(card, "cmdline.txt").split() if not word.startswith("console=")]
    return " ".join([*words, "console=ttyAMA0", "net.ifnames=0"])


@dataclass(frozen=True)
class Shell:
    """Commands on the emulated Pi over SSH, with the key that the card brought."""

    user: str
    key: Path
    port: int

    def run(self, command: str, *, timeout_s: float = 120.0, stdin: bytes | None = None) -> str:
        """Run a shell command as the user; what it printed. Raises `RigError` when it fails."""
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "20",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        where = ("-i", self.key, "-p", self.port, f"{self.user}@127.0.0.1")
        return run("ssh", *words, *where, command, timeout_s=timeout_s, stdin=stdin)

    def answers(self) -> bool:
        try:
            self.run("true", timeout_s=30.0)
        except RigError:
            return False
        return True
