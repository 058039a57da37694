"""Install from a bundle: the folder that lies on the boot partition, or that `bramble-provision ssh` copied.

::

    SHA256SUMS       of every file below, checked before anything is touched
    install.json     which file goes where, with which mode; which units are enabled and started
    client.tar.gz    the client
    files/           everything else

Every step looks first whether it is done, so a second run changes nothing and a power cut costs one more run:
the first thing installed is a unit that runs the installer again at the next boot until it has finished. What
comes of it is in ``status.log`` beside the bundle, which any computer can read from the card.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_client.device import slots
from edge_client.device.status import append_status, status_line
from edge_client.device.unpack import install

SUMS, PLAN, ARCHIVE, LOG = "SHA256SUMS", "install.json", "client.tar.gz", "status.log"
RESUME_UNIT = "bramble-install.service"
INSTALLED = "/opt/bramble/installed"
MAX_SUMS_BYTES = 1 << 20


class InstallError(Exception):
    """The bundle cannot be installed; the message says what is wrong and what to do."""


@dataclass
class Installer:
    """One installation.

    Attributes:
        bundle: the folder to install from.
        root: what counts as the root directory; ``/`` but for tests and images.
        dry: say what would be done, do nothing.
        changes: what was done, or would be, in order.
    """

    bundle: Path
    root: Path = Path("/")
    dry: bool = False
    changes: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Do what is missing; what was done.

        Raises:
            InstallError: the bundle is damaged or incomplete; nothing more is done.
        """
        self._log("install", "started")
        try:
            self._check_sums()
            plan = self._plan()
            self._install_files(plan, only=RESUME_UNIT)
            self._install_client(plan)
            self._install_files(plan)
            self._system(plan)
            self._erase_secrets(plan)
            self._finish()
        except (InstallError, slots.SlotError, OSError, subprocess.SubprocessError) as exc:
            self._log("install", "failed", str(exc))
            raise InstallError(str(exc)) from exc
        self._log("install", "ok", f"{len(self.changes)} changes" if self.changes else "nothing to do")
        return self.changes

    # ---- checks ----

    def _check_sums(self) -> None:
        """Refuse a truncated copy before it does harm. A secret may be gone: it is erased once installed."""
        sums = self.bundle / SUMS
        if not sums.is_file() or sums.stat().st_size > MAX_SUMS_BYTES:
            raise InstallError(f"bundle: {SUMS} is missing; write the card again")
        secrets = {entry["source"] for entry in self._plan_unchecked() if entry.get("secret")}
        lines = sums.read_text("utf-8").splitlines()
        if not lines or lines[-1] != "# end":
            raise InstallError(f"bundle: {SUMS} is cut short; write the card again")
        for line in lines[:-1]:
            wanted, _, name = line.partition("  ")
            path = self.bundle / name
            if name in secrets and not _holds(path):
                continue
            if not path.is_file() or _sha256(path) != wanted:
                raise InstallError(f"bundle checksum: {name} is damaged or cut short; write the card again")

    def _plan(self) -> dict[str, Any]:
        plan = slots.read_json(self.bundle / PLAN)
        if not plan:
            raise InstallError(f"bundle: {PLAN} is missing; write the card again")
        return plan

    def _plan_unchecked(self) -> list[dict[str, Any]]:
        return list(slots.read_json(self.bundle / PLAN).get("files", []))

    # ---- steps ----

    def _install_files(self, plan: dict[str, Any], only: str = "") -> None:
        for entry in plan["folders"]:
            self._make_folder(entry)
        for entry in plan["files"]:
            if only in entry["path"]:
                self._install_file(entry)
        for entry in plan["links"]:
            if only in entry["path"]:
                self._link(entry["path"], entry["target"])

    def _make_folder(self, entry: dict[str, Any]) -> None:
        place = self._at(entry["path"])
        if not place.exists() and self._change(f"make {entry['path']}"):
            place.mkdir(mode=int(entry["mode"], 8), parents=True)

    def _install_file(self, entry: dict[str, Any]) -> None:
        source, target = self.bundle / entry["source"], self._at(entry["path"])
        if entry.get("secret") and (not _holds(source) or self._is_used_up(entry)):
            return
        data, mode = source.read_bytes(), int(entry["mode"], 8)
        if target.is_file() and target.read_bytes() == data and target.stat().st_mode & 0o777 == mode:
            return
        if self._change(f"write {entry['path']}"):
            _put(target, data, mode, self._owner(entry), durable=self._durable)

    def _is_used_up(self, entry: dict[str, Any]) -> bool:
        """Whether what a secret is for is there already, as the certificate that a token buys."""
        return bool(entry.get("until")) and self._at(entry["until"]).exists()

    def _link(self, path: str, target: str) -> None:
        place = self._at(path)
        if place.is_symlink() and place.readlink() == Path(target):
            return
        if self._change(f"link {path}"):
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.tmp")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(place)

    def _install_client(self, plan: dict[str, Any]) -> None:
        prefix, state = self._at(str(slots.PREFIX)), self._at(str(slots.STATE))
        build, newest = plan["client"]["build"], _newest_build(prefix)
        if newest > build or newest == build == _running_build(prefix, state):
            return  # upgraded since this bundle was made, or here already
        if self._change(f"install client {plan['client']['version']}, build {build}"):
            prefix.mkdir(parents=True, exist_ok=True)
            with (self.bundle / ARCHIVE).open("rb") as archive:
                install(prefix, state, archive, durable=self._durable)

    def _system(self, plan: dict[str, Any]) -> None:
        """Have systemd see the units, and start what is not running."""
        if self.root != Path("/") or self.dry or not (self.changes or self._is_unfinished()):
            return
        _systemctl("daemon-reload")
        for unit in plan["start"]:
            _systemctl("restart" if unit.endswith(".service") else "start", "--no-block", unit)

    def _erase_secrets(self, plan: dict[str, Any]) -> None:
        for entry in plan["files"]:
            source = self.bundle / entry["source"]
            if entry.get("secret") and source.is_file() and self._change(f"erase {entry['source']}"):
                with source.open("r+b") as file:
                    file.write(b"\0" * source.stat().st_size)
                    file.flush()
                    os.fsync(file.fileno())
                source.unlink()
                slots.sync_folder(source.parent)

    def _finish(self) -> None:
        """Note which bundle is installed: the unit that resumes rests from now on."""
        if self._is_unfinished() and self._change("note what is installed"):
            _put(self._at(INSTALLED), self._mark(), 0o644, None, durable=self._durable)

    def _is_unfinished(self) -> bool:
        """Whether no run of this bundle came to its end: one may have changed all, and started nothing."""
        mark = self._at(INSTALLED)
        return not mark.is_file() or mark.read_bytes() != self._mark()

    def _mark(self) -> bytes:
        return _sha256(self.bundle / SUMS).encode() + b"\n"

    # ---- inside ----

    @property
    def _durable(self) -> bool:
        """Whether to wait for the disk after each file; a folder that stands for a root can be made again."""
        return self.root == Path("/")

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _change(self, what: str) -> bool:
        """Note a change; whether it is to be made."""
        if what not in self.changes:  # a dry run passes some files twice
            self.changes.append(what)
        return not self.dry

    def _owner(self, entry: dict[str, Any]) -> tuple[int, int] | None:
        """Who owns the service's state, for a file of it; None leaves it with who installs."""
        state = self._at(str(slots.STATE))
        if not entry.get("state") or os.geteuid() != 0 or not state.exists():
            return None
        return state.stat().st_uid, state.stat().st_gid

    def _log(self, step: str, verdict: str, detail: str = "") -> None:
        """A line ``uptime_s time step state detail``; a log that cannot be written stops nothing."""
        if self.dry:
            return
        line = status_line(step, verdict, detail)
        print(line, file=sys.stderr)
        try:
            append_status(self.bundle / LOG, [line])
        except OSError as exc:
            print(f"{self.bundle / LOG}: {exc}", file=sys.stderr)


def _holds(secret: Path) -> bool:
    """Whether a secret is there: where the power went while it was erased, zeros are left of it."""
    return secret.is_file() and bool(secret.read_bytes().strip(b"\0"))


def _newest_build(prefix: Path) -> int:
    return max(int(slots.client_of(prefix, slot).get("build", 0)) for slot in slots.SLOTS)


def _running_build(prefix: Path, state: Path) -> int:
    """Of the client that the next start runs; 0 where there is none."""
    try:
        return int(slots.client_of(prefix, slots.chosen(prefix, state)).get("build", 0))
    except slots.SlotError:
        return 0


def _put(target: Path, data: bytes, mode: int, owner: tuple[int, int] | None, *, durable: bool) -> None:
    for folder in reversed([folder for folder in target.parents if not folder.exists()]):
        folder.mkdir(mode=0o755)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        if owner is not None:
            os.fchown(descriptor, *owner)
        file.write(data)
        file.flush()
        if durable:
            os.fsync(descriptor)
    temporary.replace(target)
    if durable:
        slots.sync_folder(target.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _systemctl(*arguments: str) -> None:
    if shutil.which("systemctl") is None:
        raise InstallError("systemctl is missing: this system is not run by systemd")
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise InstallError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()[:200]}")
