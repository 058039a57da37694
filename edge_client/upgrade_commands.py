"""``bramble-edge upgrade``: install a signed client by hand, or as the unit that waits for one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compression.command_line import Commands, command
from compression.errors import BrambleError
from edge_client.config import load_config
from edge_client.device import slots
from edge_client.options import add_config
from edge_client.upgrade import OUTCOME, STAGED
from edge_client.upgrade.errors import UpgradeError


def add_upgrade(commands: Commands) -> None:
    """Add ``upgrade``."""
    parser = command(
        commands,
        "upgrade",
        run_upgrade,
        "install a signed client beside the running one; the service starts it, and goes back if it fails",
        "sudo bramble-edge upgrade pi-ward-3.upgrade --config /etc/bramble/edge.toml",
    )
    parser.add_argument("file", type=Path, help="made by: bramble-provision upgrade NAME --out FILE")
    parser.add_argument("--root", type=Path, default=Path("/"), help="install below this folder")
    parser.add_argument(
        "--outcome",
        action="store_true",
        help="leave word of a refusal for the service",
    )
    add_config(parser)


def run_upgrade(arguments: argparse.Namespace) -> int:
    from edge_client.upgrade.install import MARK, install_package  # noqa: PLC0415 - cryptography takes its time

    prefix, state = (arguments.root / str(path).lstrip("/") for path in (slots.PREFIX, slots.STATE))
    try:
        upgrade = install_package(arguments.file, load_config(arguments.config), prefix=prefix, state=state)
    except (BrambleError, slots.SlotError, OSError) as exc:
        if arguments.outcome:
            number = slots.read_json(arguments.file.with_name(STAGED)).get("number")
            if number != slots.read_json(prefix / MARK).get("number"):  # or it was done before a power cut
                slots.write_json(prefix / OUTCOME, {"number": number, "reason": str(exc)})
        raise UpgradeError(str(exc)) from exc
    facts = {"version": upgrade.version, "build": upgrade.build, "number": upgrade.number}
    text = f"client {upgrade.version}, build {upgrade.build}: installed, runs from the next start on"
    print(json.dumps(facts) if arguments.json else f"{text}: systemctl restart bramble-edge")
    return 0
