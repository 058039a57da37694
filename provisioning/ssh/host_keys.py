"""Whether the machine that answers is the one that is meant: its host key, pinned once and then checked.

A key is accepted by naming its fingerprint, never by pressing on: whoever types it has read it on the
device's own screen, or knows that this first connection goes over a cable.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning.ssh.errors import RemoteError

SCAN_TIMEOUT_S = 15
HOST = re.compile(r"([a-z_][a-z0-9_-]{0,31})@([A-Za-z0-9][A-Za-z0-9.:_-]{0,252})")


@dataclass(frozen=True, slots=True)
class Host:
    """Where a device listens for SSH."""

    user: str
    name: str
    port: int = 22

    @classmethod
    def parse(cls, text: str, port: int = 22) -> Host:
        """``user@host``; `RemoteError` for anything that ssh could take for an option or a command."""
        match = HOST.fullmatch(text)
        if match is None:
            raise RemoteError(f"{text[:80]!r} is not USER@HOST, as in pi@pi-ward-3.local")
        return cls(match[1], match[2], port)

    @property
    def known_as(self) -> str:
        """As known_hosts names it."""
        return self.name if self.port == 22 else f"[{self.name}]:{self.port}"

    def __str__(self) -> str:
        return f"{self.user}@{self.name}" + ("" if self.port == 22 else f":{self.port}")


def is_pinned(host: Host, known_hosts: Path) -> bool:
    """Whether a key of the host is in the file."""
    done = _run("ssh-keygen", "-F", host.known_as, "-f", str(known_hosts))
    return done.returncode == 0


def scan(host: Host) -> dict[str, str]:
    """The keys that the host shows: fingerprint to line of known_hosts."""
    done = _run("ssh-keyscan", "-T", str(SCAN_TIMEOUT_S), "-p", str(host.port), host.name)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    if not lines:
        raise RemoteError(f"{host}: nothing answers as SSH; is the device on, and SSH enabled on it?")
    return {_fingerprint(line): line for line in lines}


def pin(host: Host, known_hosts: Path, fingerprint: str | None) -> str | None:
    """Pin the key with that fingerprint; the fingerprint, or None where a key was pinned before.

    Raises:
        RemoteError: no fingerprint was given, or the host shows no such key. The message has those it shows.
    """
    if is_pinned(host, known_hosts):
        return None
    shown = scan(host)
    if fingerprint is None:
        listed = ", ".join(sorted(shown))
        raise RemoteError(
            f"{host}: its host key is not known yet. It shows {listed}. Compare with what the device says "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then give --accept-host-key SHA256:..."
        )
    if fingerprint not in shown:
        listed = ", ".join(sorted(shown))
        raise RemoteError(f"{host}: it does not show {fingerprint} but {listed}; something is between you")
    known_hosts.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with known_hosts.open("a", encoding="utf-8") as file:
        file.write(shown[fingerprint] + "\n")
    return fingerprint


@contextmanager
def pinned(
    host: Host, known_hosts: Path, fingerprint: str | None, *, dry: bool, say: Callable[[str], None]
) -> Iterator[Path]:
    """A file of known hosts with the host's key in it, as `pin`; a dry run pins in a copy of it."""
    with tempfile.TemporaryDirectory(prefix="bramble-") as folder:
        trusted = Path(folder, "known_hosts") if dry else known_hosts
        if dry and known_hosts.exists():
            shutil.copy(known_hosts, trusted)
        if found := pin(host, trusted, fingerprint):
            say(f"{'would pin' if dry else 'pinned'} {found} in {known_hosts}")
        yield trusted


def _fingerprint(line: str) -> str:
    done = _run("ssh-keygen", "-l", "-f", "-", stdin=line + "\n")
    parts = done.stdout.split()
    return parts[1] if len(parts) > 1 else "unreadable"


def _run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=2 * SCAN_TIMEOUT_S
        )
    except FileNotFoundError as exc:
        raise RemoteError(f"{command[0]} is not installed here: apt install openssh-client") from exc
    except subprocess.TimeoutExpired as exc:
        raise RemoteError(f"{command[0]} gave no answer within {2 * SCAN_TIMEOUT_S} s") from exc
