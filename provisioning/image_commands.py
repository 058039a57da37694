"""``bramble-provision image`` and ``inspect``: a personalised image as a file, and what a card carries."""

from __future__ import annotations

import argparse
import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from compression.command_line import Commands, command
from compression.progress import progress_bar
from compression.text_table import bytes_text
from provisioning.card_jobs import CardJob, add_job_options, card_jobs
from provisioning.card_options import card_tables
from provisioning.customise.apply import Applied, new_instance_id
from provisioning.customise.errors import CustomiseError
from provisioning.customise.image_file import write_image_file
from provisioning.customise.inspect import Carried, inspect_card
from provisioning.image.sources import Image, open_image

INSTANCE_BYTES = 8


def add_image(commands: Commands) -> None:
    """Add ``image``."""
    parser = command(
        commands,
        "image",
        run_image,
        "personalise an image: the same as a card, as a file",
        "bramble-provision image raspios.img.xz --out pi-1.img --card cards.toml --name pi-1 "
        "--wheelhouse wheelhouse/trixie-arm64",
        "bramble-provision image raspios.img.xz --out '{name}.img' --card cards.toml --ca ward/pki --dry-run",
    )
    parser.add_argument("image", type=Path, help="as it was published: .img, .xz, .zst, .gz or .zip")
    parser.add_argument("--out", required=True, metavar="FILE", help="new; {name} stands for the card's name")
    parser.add_argument(
        "--sha256", metavar="HEX", help="of the image as it was published (or FILE.sha256 beside it)"
    )
    parser.add_argument("--no-hash", action="store_true", help="take an image of which no hash is known")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    add_job_options(parser)


def add_inspect(commands: Commands) -> None:
    """Add ``inspect``."""
    parser = command(
        commands,
        "inspect",
        run_inspect,
        "print what a card or an image carries: settings, status log, certificates; secrets as stars",
        "bramble-provision inspect /dev/sdx",
    )
    parser.add_argument("target", type=Path, metavar="CARD|IMAGE", help="a card's device, or an image file")


def run_image(arguments: argparse.Namespace) -> int:
    image = open_image(arguments.image, sha256=arguments.sha256, no_hash=arguments.no_hash)
    places = _places(arguments.out, list(card_tables(arguments)))
    jobs = card_jobs(arguments, dry_run=arguments.dry_run)
    if arguments.dry_run:
        return _print(
            [_plan(image, job, place) for job, place in zip(jobs, places, strict=True)], arguments.json
        )
    done = [_make(image, job, place) for job, place in zip(jobs, places, strict=True)]
    return _print(done, arguments.json)


def run_inspect(arguments: argparse.Namespace) -> int:
    carried = inspect_card(arguments.target)
    if arguments.json:
        print(json.dumps(asdict(carried), default=str))
    else:
        print("\n".join(_carried_lines(carried)))
    return 0


def _places(pattern: str, names: list[str]) -> list[Path]:
    """Each card's file, looked at before any token is made: a new token ends the one before."""
    places = [Path(pattern.replace("{name}", name)) for name in names]
    if len(set(places)) < len(places):
        raise CustomiseError(f"--out {pattern} is one file for {len(places)} cards; put {{name}} in it")
    for place in places:
        if place.exists():
            raise CustomiseError(f"{place} exists; name another file or remove it")
    return places


def _make(image: Image, job: CardJob, out: Path) -> dict[str, Any]:
    instance = new_instance_id(job.card, secrets.token_hex(INSTANCE_BYTES))
    with progress_bar() as report:
        applied = write_image_file(image, out, job.card, job.payload, instance_id=instance, report=report)
    return _facts(job, out) | _applied(applied)


def _plan(image: Image, job: CardJob, out: Path) -> dict[str, Any]:
    return {
        "would_write": True,
        "image": str(image.path),
        "kind": image.kind,
        "image_bytes": image.size,
    } | _facts(job, out)


def _facts(job: CardJob, out: Path) -> dict[str, Any]:
    card = job.card
    return {
        "name": card.name,
        "out": str(out),
        "target": card.target,
        "mode": card.mode,
        "identity": card.identity.TAG,
        "wifi": card.wifi.ssid if card.wifi else None,
        "boot_files": len(job.payload.boot),
        "root_entries": len(job.payload.root),
    }


def _applied(applied: Applied) -> dict[str, Any]:
    return {
        "format": applied.format,
        "evidence": applied.evidence,
        "read_back": len(applied.written),
        "bytes": sum(item.size for item in applied.written),
        "files": {f"{item.partition}:{item.path}": item.sha256 for item in applied.written if item.sha256},
    }


def _print(facts: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(facts))
        return 0
    for each in facts:
        if each.get("would_write"):
            what = ", ".join((each["name"], each["target"], each["mode"]))
            print(f"would write {each['out']} from {each['image']}: {what}")
        else:
            amount = f"{each['read_back']} files and settings, {bytes_text(each['bytes'])}"
            print(
                f"{each['out']}: {each['name']} ({each['format']}: {each['evidence']}); {amount}, read back"
            )
    return 0


def _carried_lines(carried: Carried) -> list[str]:
    system = "-".join(part for part in (carried.codename, carried.architecture) if part)
    lines = [f"first-boot format: {carried.format} ({carried.evidence})", f"system: {system or 'unknown'}"]
    for place, settings in carried.settings.items():
        text = settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False, width=100)
        lines += ["", place, *(f"  {line}" for line in text.rstrip().splitlines())]
    lines += ["", "certificates"]
    for each in carried.certificates:
        left = "EXPIRED" if each.expired else f"{each.days_left} days left"
        lines.append(f"  {each.place}: {each.subject}, until {each.not_after:%Y-%m-%d}, {left}")
    lines += ["", "secrets (not shown)", *(f"  {place}" for place in carried.secrets)]
    lines += ["", "status log", *(f"  {line}" for line in carried.status or ("nothing: it has not booted",))]
    return [*lines, *(f"note: {note}" for note in carried.notes)]
