"""All that a card carries to become a device: as files of its two partitions, or as a folder to copy.

Pre-baked, the root file system gets the client unpacked and nothing runs at first boot but systemd. As a
bundle, the boot partition gets everything in one folder, and an installer runs once. Its ``SHA256SUMS`` ends
with a line that says so: a list that was cut short does not pass for a shorter one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from provisioning.bundle.entries import BUNDLE, Entry, SystemFile, entries
from provisioning.bundle.errors import BundleError
from provisioning.card import Card
from provisioning.customise.payload import (
    BOOT_MOUNT,
    BootFile,
    Content,
    Payload,
    RootEntry,
    RootFile,
    RootFolder,
    RootLink,
    content_bytes,
)
from provisioning.systemd.units import EDGE, ENROL, PROGRAM, STATUS_PATH, UPGRADE_PATH
from provisioning.wheelhouse.archive import ARCHIVE_FILE, MANIFEST_FILE
from provisioning.wheelhouse.lock import file_sha256
from provisioning.wheelhouse.make import Wheelhouse

PREFIX = "/opt/bramble"
START = (ENROL, STATUS_PATH, UPGRADE_PATH, EDGE)
SUMS, END_OF_SUMS = "SHA256SUMS", "# end"
PYTHON = "/usr/bin/python3"


def payload(card: Card, wheelhouse: Wheelhouse) -> Payload:
    """What goes onto the card, in the card's own mode.

    Raises:
        BundleError: the wheelhouse is of another target than the card.
    """
    if wheelhouse.lock.target != card.target:
        raise BundleError(
            f"card {card.name} is for {card.target}, the wheelhouse for {wheelhouse.lock.target}"
        )
    return _prebaked(card, wheelhouse) if card.mode == "prebaked" else _bundled(card, wheelhouse)


def bundle_files(
    card: Card, wheelhouse: Wheelhouse, *, from_boot: bool = True, bundle: PurePosixPath = BUNDLE
) -> dict[str, Content]:
    """The files of a bundle by their names in its folder, the list of sums last."""
    system = entries(card, from_boot=from_boot, bundle=bundle)
    files: dict[str, Content] = {_source(entry): entry.content for entry in _files(system)}
    files["install.json"] = _plan(system, wheelhouse)
    files[ARCHIVE_FILE] = wheelhouse.archive
    sums = [f"{_digest(content)}  {name}" for name, content in sorted(files.items())]
    return files | {SUMS: "\n".join([*sums, END_OF_SUMS, ""]).encode()}


def write_bundle(files: dict[str, Content], folder: Path) -> None:
    """Write a bundle to a folder of this machine; its secrets are nobody else's to read."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content_bytes(content))


def _prebaked(card: Card, wheelhouse: Wheelhouse) -> Payload:
    root: list[RootEntry] = [_root_entry(entry) for entry in entries(card, from_boot=False)]
    root.append(RootFile(f"{PREFIX}/a/{MANIFEST_FILE}", wheelhouse.client.manifest()))
    root += [
        RootFile(f"{PREFIX}/a/site/{path.relative_to(wheelhouse.site).as_posix()}", path)
        for path in sorted(wheelhouse.site.rglob("*"))
        if path.is_file()
    ]
    root.append(RootFile(f"{PREFIX}/pointer.json", b'{"active": "a"}'))
    note = f"client {wheelhouse.lock.client}, build {wheelhouse.lock.build}, is in the root file system\n"
    return Payload(boot=(BootFile("bramble/README.txt", note.encode()),), root=tuple(root))


def _bundled(card: Card, wheelhouse: Wheelhouse) -> Payload:
    folder = BUNDLE.relative_to(BOOT_MOUNT)
    files = bundle_files(card, wheelhouse)
    boot = tuple(BootFile(str(folder / name), content) for name, content in files.items())
    install = (PYTHON, "-I", str(BUNDLE / "bramble-edge"), "device", "install", str(BUNDLE))
    return Payload(boot=boot, first_boot=(install,))


def _root_entry(entry: Entry) -> RootEntry:
    return RootFile(entry.path, entry.content, entry.mode) if isinstance(entry, SystemFile) else entry


def _plan(system: Sequence[Entry], wheelhouse: Wheelhouse) -> bytes:
    plan: dict[str, Any] = {
        "client": {"version": wheelhouse.lock.client, "build": wheelhouse.lock.build},
        "folders": [
            {"path": entry.path, "mode": f"{entry.mode:04o}"}
            for entry in system
            if isinstance(entry, RootFolder)
        ],
        "files": [_planned(entry) for entry in _files(system)],
        "links": [
            {"path": entry.path, "target": entry.target} for entry in system if isinstance(entry, RootLink)
        ],
        "start": list(START),
    }
    return json.dumps(plan, indent=1, sort_keys=True).encode() + b"\n"


def _planned(entry: SystemFile) -> dict[str, Any]:
    planned: dict[str, Any] = {"path": entry.path, "source": _source(entry), "mode": f"{entry.mode:04o}"}
    optional = {"secret": entry.secret, "until": entry.until, "state": entry.state}
    return planned | {name: value for name, value in optional.items() if value}


def _files(system: Sequence[Entry]) -> list[SystemFile]:
    return [entry for entry in system if isinstance(entry, SystemFile)]


def _source(entry: SystemFile) -> str:
    """Where a file lies in a bundle; the program at the top, since it is what a person starts."""
    name = PurePosixPath(entry.path).name
    return name if entry.path == PROGRAM else f"files/{name}"


def _digest(content: Content) -> str:
    return file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
