"""The program on a device: the client by its launcher, and ``device ...`` for what comes before a client."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edge_client.device import launcher, slots
from edge_client.device.installer import Installer, InstallError
from edge_client.device.status import copy_status

USAGE = """usage: bramble-edge device install BUNDLE [--root DIR] [--dry-run]
       bramble-edge device copy-status FROM TO
       bramble-edge device status [--root DIR]

Every other command is the client's own: bramble-edge --help
example: bramble-edge device install /boot/firmware/bramble --dry-run"""


def main(arguments: Sequence[str]) -> int:
    """0 done, 1 failed with one line that says why, 2 wrong usage."""
    try:
        if arguments[:1] != ["device"]:
            launcher.launch(arguments)
            return 1  # an exec returns only by an exception
        return _device(list(arguments[1:]))
    except (slots.SlotError, InstallError, OSError) as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1


def _device(arguments: list[str]) -> int:
    dry = "--dry-run" in arguments
    rest = [argument for argument in arguments if argument != "--dry-run"]
    root = Path("/")
    if "--root" in rest and (at := rest.index("--root")) + 1 < len(rest):
        root = Path(rest[at + 1])
        del rest[at : at + 2]
    match rest:
        case ["install", bundle]:
            changes = Installer(Path(bundle), root, dry=dry).run()
            print("\n".join(changes) or "nothing to do")
        case ["copy-status", source, target]:
            copy_status(Path(source), Path(target))
        case ["status"]:
            print("\n".join(_status(root)))
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


def _status(root: Path) -> list[str]:
    prefix, state = root / str(slots.PREFIX).lstrip("/"), root / str(slots.STATE).lstrip("/")
    running = slots.chosen(prefix, state)
    lines = []
    for slot in slots.SLOTS:
        if client := slots.client_of(prefix, slot):
            trial = slots.trial_of(prefix, state, slot).get("state", "")
            mark = "*" if slot == running else " "
            lines.append(f"{mark} {slot}  {client['version']}  build {client['build']}  {trial}".rstrip())
    return lines
