"""``bramble-provision flash``: an image onto one or more cards, each with its own identity."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compression.command_line import Commands, command
from provisioning.card import CardError
from provisioning.card_jobs import CardJob, add_job_options, card_jobs, complete_jobs
from provisioning.card_options import card_tables, describes_card
from provisioning.customise.apply import new_instance_id, personalise
from provisioning.customise.errors import CustomiseError
from provisioning.customise.layout import layout_of
from provisioning.customise.readback import check_written
from provisioning.enrolment.progress import note_flashed
from provisioning.image.errors import FlashError, RefusedError
from provisioning.image.flash import Outcome, Personalise, Recheck, flash
from provisioning.image.plan import Destination, FlashPlan, plan_flash, plan_plain, plan_text
from provisioning.image.progress import transfer_bar
from provisioning.image.register import known_cards, note_outcomes, note_start, read_register
from provisioning.image.sources import open_image
from provisioning.image.target import HELD_BACK
from provisioning.pki.authority import FleetCA


def add_flash(commands: Commands) -> None:
    """Add ``flash``."""
    parser = command(
        commands,
        "flash",
        run_flash,
        "write an image to cards, read them back, make each one a member of the fleet; the first block is "
        "written last, so an unfinished card never looks finished",
        "bramble-provision flash raspios.img.xz --device /dev/sda --dry-run",
        "bramble-provision flash raspios.img.xz --card cards.toml --name pi-1 --device /dev/sda",
        "bramble-provision flash raspios.img.xz --card cards.toml --name pi-1,pi-2 --device /dev/sda "
        "--device /dev/sdb",
        "bramble-provision flash raspios.img.xz --device card.img --no-hash --yes",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an .img, or one in .xz, .zst, .gz or .zip")
    parser.add_argument(
        "--device",
        type=Path,
        action="append",
        metavar="DEVICE",
        help="a disk, or a file to be made; once for each card (default: what the cards' settings name)",
    )
    hashes = parser.add_mutually_exclusive_group()
    hashes.add_argument(
        "--sha256", metavar="HEX", help="of IMAGE as it was published (default: from IMAGE.sha256)"
    )
    hashes.add_argument("--no-hash", action="store_true", help="do not check where the image comes from")
    parser.add_argument(
        "--erase-serial",
        action="append",
        default=[],
        metavar="SERIAL",
        help="erase a disk that does not look like a card: type its serial number; never the system's disk",
    )
    parser.add_argument(
        "--register", type=Path, metavar="FILE", help="keep a CSV file with a row for each Pi"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and check it, write nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_job_options(parser)


def run_flash(arguments: argparse.Namespace) -> int:
    """0 when every card is done, 1 otherwise."""
    plan = _plan(arguments)
    remarks = known_cards(read_register(arguments.register), plan) if arguments.register else []
    jobs = card_jobs(arguments, dry_run=True) if _has_cards(arguments) else []
    if arguments.dry_run:
        _show(arguments, plan, remarks)
        return 0
    if not arguments.json:
        _show(arguments, plan, remarks)
    _confirm(arguments, plan)

    def begin() -> Personalise | None:
        """Every card is held, so this is no trial any more: now the register, and what ends older tokens."""
        if arguments.register:
            note_start(arguments.register, plan)
        return _personaliser(complete_jobs(jobs, arguments.ca)) if jobs else None

    try:
        with transfer_bar(plan.image.size) as show:
            outcomes = flash(plan, begin=begin, on_progress=show)
    except KeyboardInterrupt:
        names = ", ".join(str(destination.path) for destination in plan.destinations)
        print(f"unfinished: {names}: no first block, does not boot; flash again", file=sys.stderr)
        raise
    if arguments.register:
        note_outcomes(arguments.register, plan, outcomes)
    _print(arguments, plan, outcomes)  # first: whatever fails now, the cards are as they are
    if arguments.ca:
        _tell_the_fleet(arguments.ca, outcomes)
    return 0 if all(outcome.state == "done" for outcome in outcomes) else 1


def _plan(arguments: argparse.Namespace) -> FlashPlan:
    image = open_image(arguments.image, sha256=arguments.sha256, no_hash=arguments.no_hash)
    tables = card_tables(arguments) if _has_cards(arguments) else {}
    named = [Path(table["device"]) for table in tables.values() if table.get("device")]
    devices = arguments.device or named
    if not devices:
        raise RefusedError("no device is named: give --device, as lsblk lists it, or a file to be made")
    return plan_flash(image, devices, names=tuple(tables), erase_serials=frozenset(arguments.erase_serial))


def _has_cards(arguments: argparse.Namespace) -> bool:
    """Without cards the image is written as it is; who describes a card and names none does not mean that."""
    if any((arguments.card, arguments.inventory, arguments.name)):
        return True
    if arguments.ca or arguments.wheelhouse or describes_card(arguments):
        raise CardError("options of a card are given and no card: add --name NAME, or --card FILE")
    return False


def _tell_the_fleet(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """For `bramble-provision watch`: these cards are on their way."""
    authority = FleetCA.open(folder)
    for outcome in outcomes:
        if outcome.personalised and outcome.state == "done":
            note_flashed(authority, outcome.destination.name)


def _personaliser(jobs: Sequence[CardJob]) -> Personalise:
    by_name = {job.card.name: job for job in jobs}

    def work(destination: Destination, head: bytes) -> Recheck:
        job = by_name[destination.name]
        layout = layout_of(head[:512])
        if layout.boot.offset < HELD_BACK:
            raise CustomiseError(f"the image's first partition begins before {HELD_BACK} bytes")
        number = new_instance_id(job.card, secrets.token_hex(8))
        applied = personalise(destination.path, job.card, job.payload, instance_id=number, layout=layout)
        return lambda: check_written(destination.path, applied.written, layout)

    return work


def _confirm(arguments: argparse.Namespace, plan: FlashPlan) -> None:
    if arguments.yes:
        return
    if arguments.json or not sys.stdin.isatty():
        raise RefusedError("nobody is there to be asked: look at --dry-run, then add --yes")
    names = " and ".join(str(destination.path) for destination in plan.destinations)
    try:
        answer = input(f"\nErase {names}? Type yes: ").strip()
    except EOFError:  # Ctrl-D
        answer = ""
    if answer != "yes":
        raise FlashError("nothing was written")


def _show(arguments: argparse.Namespace, plan: FlashPlan, remarks: Sequence[str]) -> None:
    if arguments.json:
        print(json.dumps({"plan": plan_plain(plan), "remarks": list(remarks), "dry_run": True}, indent=2))
    else:
        print("\n".join([plan_text(plan), *(f"note: {remark}" for remark in remarks)]))


def _print(arguments: argparse.Namespace, plan: FlashPlan, outcomes: Sequence[Outcome]) -> None:
    if arguments.json:
        results = [_plain(outcome) for outcome in outcomes]
        print(json.dumps({"plan": plan_plain(plan), "results": results}, indent=2))
        return
    for outcome in outcomes:
        label = outcome.destination.label
        if outcome.state == "done":
            parts = ["written", "read back", *(["personalised"] if outcome.personalised else [])]
            took = sum(outcome.seconds.values())
            print(f"done: {label}: {outcome.bytes / 1e6:.0f} MB {', '.join(parts)} in {took:.1f} s")
        else:
            print(f"unfinished: {label}: {outcome.reason}; it has no first block and does not boot")


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "device": str(outcome.destination.path),
        "name": outcome.destination.name,
        "state": outcome.state,
        "reason": outcome.reason,
        "verified": outcome.verified,
        "personalised": outcome.personalised,
        "bytes": outcome.bytes,
        "sha256": outcome.sha256,
        "seconds": {step: round(value, 3) for step, value in outcome.seconds.items()},
    }
