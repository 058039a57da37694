"""The program on a device: the client by its launcher, and ``device ...`` for what comes before a client."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_client.device import launcher, slots
from edge_client.device.installer import Installer, InstallError
from edge_client.device.status import copy_status

USAGE = """usage: bramble-edge device install BUNDLE [--root DIR] [--dry-run] [--json]
       bramble-edge device copy-status FROM TO [--json]
       bramble-edge device status [--root DIR] [--json]

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
    plain, dry = "--json" in arguments, "--dry-run" in arguments
    rest = [argument for argument in arguments if argument not in ("--json", "--dry-run")]
    root = Path("/")
    if "--root" in rest and (at := rest.index("--root")) + 1 < len(rest):
        root = Path(rest[at + 1])
        del rest[at : at + 2]
    match rest:
        case ["install", bundle]:
            changes = Installer(Path(bundle), root, dry=dry).run()
            _show({"changes": changes, "dry_run": dry}, changes or ["nothing to do"], plain=plain)
        case ["copy-status", source, target]:
            lines = copy_status(Path(source), Path(target))
            _show({"lines": lines}, [], plain=plain)
        case ["status"]:
            clients = _clients(root)
            _show({"clients": clients}, [_line(client) for client in clients], plain=plain)
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


def _show(document: dict[str, Any], lines: Sequence[str], *, plain: bool) -> None:
    if plain:
        print(json.dumps(document))
    elif lines:
        print("\n".join(lines))


def _clients(root: Path) -> list[dict[str, Any]]:
    """Those that are installed; `trial` is how a new one's trial stands, None for one that is on none."""
    prefix, state = root / str(slots.PREFIX).lstrip("/"), root / str(slots.STATE).lstrip("/")
    running = slots.chosen(prefix, state)
    found = []
    for slot in slots.SLOTS:
        if client := slots.client_of(prefix, slot):
            trial = slots.trial_of(prefix, state, slot).get("state")
            facts = {"version": client["version"], "build": client["build"], "trial": trial}
            found.append({"slot": slot, "runs": slot == running, **facts})
    return found


def _line(client: dict[str, Any]) -> str:
    mark = "*" if client["runs"] else " "
    words = f"{mark} {client['slot']}  {client['version']}  build {client['build']}  {client['trial'] or ''}"
    return words.rstrip()
