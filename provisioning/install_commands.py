"""``bramble-provision wheelhouse`` and ``bundle``: what a device installs, made on the workstation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from compression.command_line import Commands, command
from compression.progress import progress_bar
from provisioning.bundle.errors import BundleError
from provisioning.bundle.payload import bundle_files, write_bundle
from provisioning.card_jobs import add_authority_option, described_cards, with_tokens
from provisioning.card_options import add_card_options
from provisioning.wheelhouse.make import Wheelhouse, make_wheelhouse, open_wheelhouse
from provisioning.wheelhouse.targets import SYSTEMS, system


def add_wheelhouse(commands: Commands) -> None:
    """Add ``wheelhouse``."""
    parser = command(
        commands,
        "wheelhouse",
        run_wheelhouse,
        "collect the client and all it needs for one kind of system: devices install without internet",
        "bramble-provision wheelhouse --target trixie-arm64 --out wheelhouse/trixie-arm64",
    )
    parser.add_argument("--target", required=True, choices=sorted(SYSTEMS), help="what the device runs")
    parser.add_argument("--out", type=Path, required=True, help="folder; made, or brought up to date")
    parser.add_argument(
        "--refresh", action="store_true", help="look for newer wheels even if nothing is missing"
    )
    parser.add_argument(
        "--bramble-wheel",
        type=Path,
        metavar="FILE",
        help="the client itself (default: built from the sources)",
    )
    parser.add_argument(
        "--python",
        type=Path,
        metavar="PROGRAM",
        help="a Python of the target's version, to compile with (default: on PATH; else the device does it)",
    )


def add_bundle(commands: Commands) -> None:
    """Add ``bundle``."""
    parser = command(
        commands,
        "bundle",
        run_bundle,
        "write what a card's boot partition carries to a folder; it holds the card's secrets",
        "bramble-provision bundle --card cards.toml --name pi-ward-3 --wheelhouse wheelhouse/trixie-arm64 "
        "--out bundles",
    )
    add_card_options(parser)
    add_authority_option(parser)
    parser.add_argument("--wheelhouse", type=Path, required=True, help="as `wheelhouse --out` made it")
    parser.add_argument("--out", type=Path, required=True, help="a folder NAME/bramble is made in it")


def run_wheelhouse(arguments: argparse.Namespace) -> int:
    with progress_bar() as report:
        made = make_wheelhouse(
            system(arguments.target),
            arguments.out,
            bramble_wheel=arguments.bramble_wheel,
            python=arguments.python,
            refresh=arguments.refresh,
            report=report,
        )
    if arguments.json:
        print(json.dumps(_facts(made)))
    else:
        print("\n".join(_lines(made)))
    return 0


def run_bundle(arguments: argparse.Namespace) -> int:
    wheelhouse = open_wheelhouse(arguments.wheelhouse)
    cards, written = described_cards(arguments), []
    for card in cards:
        if card.target != wheelhouse.lock.target:
            raise BundleError(f"{card.name} is for {card.target}, not for {wheelhouse.lock.target}")
    for card in with_tokens(cards, arguments.ca):
        folder = arguments.out / card.name / "bramble"
        write_bundle(bundle_files(card, wheelhouse), folder)
        written.append({"name": card.name, "folder": str(folder)})
    print(json.dumps({"bundles": written}) if arguments.json else "\n".join(w["folder"] for w in written))
    return 0


def _facts(made: Wheelhouse) -> dict[str, Any]:
    lock = made.lock
    items = [{"name": i.name, "version": i.version, "kind": i.kind, "sha256": i.sha256} for i in lock.items]
    return {
        "folder": str(made.folder),
        "changed": made.changed,
        "target": lock.target,
        "client": lock.client,
        "build": lock.build,
        "bytecode": lock.bytecode,
        "archive": str(made.archive),
        "archive_bytes": made.archive.stat().st_size,
        "archive_sha256": lock.archive,
        "items": items,
    }


def _lines(made: Wheelhouse) -> list[str]:
    lock = made.lock
    size = sum(item.size for item in lock.items) / 1e6
    lines = [
        f"{made.folder}: {'written' if made.changed else 'up to date'}",
        f"client {lock.client}, build {lock.build}, for {lock.target} (Python {lock.python})",
        f"{len(lock.of_kind('wheel'))} wheels and {len(lock.of_kind('deb'))} Debian packages, {size:.1f} MB",
        f"{made.archive.name}: {made.archive.stat().st_size / 1e6:.1f} MB",
    ]
    if lock.of_kind("deb"):
        names = ", ".join(item.name for item in lock.of_kind("deb") if item.name.startswith("python3-"))
        lines.append(f"from the distribution, because there is no wheel: {names} and their libraries")
    if not lock.bytecode:
        lines.append(
            f"no Python {lock.python} here to compile with: the device compiles at its first start (slower)"
        )
    return lines
