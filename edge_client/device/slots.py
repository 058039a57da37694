"""Two clients on one device, A and B, a pointer that says which one runs, and the trial of a new one.

::

    /opt/bramble/a/client.json, a/site/   one client; b/ the other
    /opt/bramble/pointer.json             which one is active, and which was before; root's
    /var/lib/bramble/trial.json           how the active one's trial stands; the service's

A new client is on trial until it has been online. The launcher counts its starts before each of them, so that
power cuts and crashes count, too; after `MAX_STARTS`, or when a start ends without `online`, the previous
client runs again. The pointer is root's: a client can fail its own trial, never choose what runs.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

PREFIX, STATE = Path("/opt/bramble"), Path("/var/lib/bramble")
SLOTS = ("a", "b")
POINTER, TRIAL, CLIENT, SITE = "pointer.json", "trial.json", "client.json", "site"
LIBRARIES = "shared-libraries"
MAX_STARTS = 3  # of a client on trial
TRIAL_S = 1200  # a start may take this long until the client is online, from when its examples are counted
MAX_RECORD_BYTES = 64 * 1024


class SlotError(Exception):
    """There is no client that can run, or an archive is not one."""


def open_plain(path: Path) -> BinaryIO:
    """A regular file to read, never through a link: root reads where the service can put what it likes.

    Raises:
        OSError: it is a link, a device or a pipe, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; empty where the file is missing or damaged, as after a power cut."""
    try:
        with open_plain(path) as file:
            plain = json.loads(file.read(MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def write_json(path: Path, plain: dict[str, Any]) -> None:
    """Replace a small JSON object: the old one or the new one is there, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # root writes into the service's folder: follows no link
    with os.fdopen(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as file:
        json.dump(plain, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def client_of(prefix: Path, slot: str) -> dict[str, Any]:
    """What lies in a slot: ``client.json``; empty where there is no whole client."""
    folder = prefix / slot
    return read_json(folder / CLIENT) if slot in SLOTS and (folder / SITE).is_dir() else {}


def chosen(prefix: Path, state: Path) -> str:
    """The slot whose client runs now: the active one, or the one before where the trial failed."""
    pointer = read_json(prefix / POINTER)
    active, previous = str(pointer.get("active", "")), str(pointer.get("previous", ""))
    if not client_of(prefix, active):
        if client_of(prefix, previous):
            return previous
        raise SlotError(f"{prefix} holds no client; install one: bramble-provision ssh, or a new card")
    failed = trial_of(prefix, state, active).get("state") == "failed"
    return previous if failed and client_of(prefix, previous) else active


def trial_of(prefix: Path, state: Path, slot: str) -> dict[str, Any]:
    """How the trial of the client in a slot stands; empty before its first start."""
    trial = read_json(state / TRIAL)
    return trial if trial.get("build") == client_of(prefix, slot).get("build") else {}


def begin_start(prefix: Path, state: Path) -> tuple[str, bool]:
    """Choose a client for a start as a service, and count the start; the slot, and whether it is on trial."""
    slot = chosen(prefix, state)
    pointer = read_json(prefix / POINTER)
    previous = client_of(prefix, str(pointer.get("previous", "")))
    if slot != pointer.get("active") or not previous:
        return slot, False  # nothing to go back to
    trial = trial_of(prefix, state, slot)
    if trial.get("state") == "passed":
        return slot, False
    starts = int(trial.get("starts", 0))
    mark = {"build": client_of(prefix, slot).get("build"), "state": "on trial", "starts": starts + 1}
    if starts >= MAX_STARTS:
        reason = f"not online in {MAX_STARTS} starts"
        mark |= {"state": "failed", "starts": starts, "reason": reason}
    try:
        write_json(state / TRIAL, mark)
    except OSError:  # no room, as a rule: a start that is not counted could be repeated for ever
        return str(pointer["previous"]), False
    return (slot, True) if starts < MAX_STARTS else (str(pointer["previous"]), False)


def passed(state: Path) -> bool:
    """The running client is online: its trial is over. True where it was on one."""
    trial = read_json(state / TRIAL)
    if trial.get("state") != "on trial":
        return False
    write_json(state / TRIAL, trial | {"state": "passed"})
    return True


def free_slot(prefix: Path, state: Path) -> str:
    """The slot that a new client may be unpacked into: never that of the client to go back to.

    It is the one that does not run, and while one is on trial that one's: it has not been online yet, and
    whoever installs another meanwhile would leave two unproven clients on a device that is far away.
    """
    try:
        kept = chosen(prefix, state)
    except SlotError:
        return SLOTS[0]
    pointer = read_json(prefix / POINTER)
    previous = str(pointer.get("previous", ""))
    on_trial = kept == pointer.get("active") and trial_of(prefix, state, kept).get("state") != "passed"
    if on_trial and client_of(prefix, previous):
        kept = previous
    return SLOTS[1 - SLOTS.index(kept)]
