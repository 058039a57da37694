"""Programs run by the rig: an argument list, a deadline, and the end of the output where one fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from compression.errors import BrambleError

Argument = str | int | Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

NEEDS = {  # program -> Debian package
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
    "update-binfmts": "binfmt-support",
    "arch-test": "arch-test",
    "mmdebstrap": "mmdebstrap",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "depmod": "kmod",
    "cpio": "cpio",
    "busybox": "busybox",
    "mosquitto": "mosquitto",
    "xz": "xz-utils",
    "ssh": "openssh-client",
}


class RigError(BrambleError, RuntimeError):
    """The rig cannot go on, or the emulated Pi did not do what it should."""


def require_programs(needs: Mapping[str, str] = NEEDS) -> None:
    """Raise `RigError` naming the packages of all programs that are missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # mkfs and its like, for people who are not root
    missing = sorted({package for program, package in needs.items() if not shutil.which(program)})
    if not KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing:
        raise RigError(f"apt-get install --no-install-recommends {' '.join(missing)}")


def end_on_sigterm() -> None:
    """Let a SIGTERM unwind the stack, or the emulator and the fleet would live on."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


def run(
    *arguments: Argument,
    timeout_s: float = 600.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | bytes | None = None,
) -> str:
    """Run a program to its end; what it printed.

    Raises:
        RigError: it failed or did not end in time; with the last lines of its output.
    """
    words = [str(argument) for argument in arguments]
    given = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            words, input=given, env=env, cwd=cwd, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise RigError(f"{' '.join(words)[:300]}: not done after {timeout_s:g} s") from exc
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")
        raise RigError(f"{' '.join(words)[:300]} failed ({done.returncode}): {output[-2000:]}")
    return done.stdout.decode(errors="replace")
