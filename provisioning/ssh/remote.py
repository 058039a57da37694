"""Commands and files on a device, by the ssh program: no password is asked for, no unknown host trusted."""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.customise.payload import Content
from provisioning.ssh.errors import RemoteError
from provisioning.ssh.host_keys import Host

CONNECT_TIMEOUT_S = 15
COMMAND_TIMEOUT_S = 900  # sending 50 MB over a weak Wi-Fi, unpacking them on a slow card


@dataclass(frozen=True, slots=True)
class Remote:
    """A device over SSH."""

    host: Host
    known_hosts: Path
    key_file: Path | None = None

    def run(self, command: Sequence[str] | str, *, stdin: bytes | None = None) -> str:
        """What a command printed.

        Raises:
            RemoteError: the device cannot be reached, or the command failed; with the last line it said.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        try:
            done = subprocess.run(
                [*self._ssh(), "--", text],
                input=stdin if stdin is not None else b"",
                capture_output=True,
                check=False,
                timeout=COMMAND_TIMEOUT_S,
            )
        except FileNotFoundError as exc:
            raise RemoteError("ssh is not installed here: apt install openssh-client") from exc
        except subprocess.TimeoutExpired as exc:
            raise RemoteError(f"{self.host}: no answer within {COMMAND_TIMEOUT_S} s") from exc
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise RemoteError(f"{self.host}: {lines[-1][:300]}")
        return done.stdout.decode("utf-8", "replace")

    def digests(self, folder: str, names: Sequence[str]) -> dict[str, str]:
        """SHA-256 of those files in a folder of the device that exist."""
        quoted = " ".join(shlex.quote(name) for name in names)
        text = f"cd {shlex.quote(folder)} 2>/dev/null && sha256sum -- {quoted} 2>/dev/null || true"
        pairs = (line.partition("  ") for line in self.run(text).splitlines())
        return {name: digest for digest, _, name in pairs}

    def put(self, folder: str, files: Mapping[str, Content]) -> None:
        """Write files into a folder of the device that only its user can read."""
        quoted = shlex.quote(folder)
        self.run(f"umask 077 && mkdir -p {quoted} && tar -C {quoted} -xf -", stdin=_tar(files))

    def _ssh(self) -> list[str]:
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            f"ConnectTimeout={CONNECT_TIMEOUT_S}",
            "ServerAliveInterval=15",
            "LogLevel=ERROR",
        ]
        command = ["ssh", "-T", "-p", str(self.host.port), "-l", self.host.user]
        for option in options:
            command += ["-o", option]
        if self.key_file is not None:
            command += ["-i", str(self.key_file), "-o", "IdentitiesOnly=yes"]
        return [*command, self.host.name]


def _tar(files: Mapping[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
