"""Cards with all that goes onto them: what ``flash`` and ``image`` work through."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.bundle.payload import payload
from provisioning.card import Card, CardError
from provisioning.card_options import add_card_options, card_tables, cards_from
from provisioning.card_settings import Issue
from provisioning.customise.payload import Payload
from provisioning.enrolment.tokens import issue_tokens
from provisioning.pki.authority import FleetCA
from provisioning.wheelhouse.make import Wheelhouse, open_wheelhouse


@dataclass(frozen=True, slots=True)
class CardJob:
    """One card, its payload, and the device that the file names for it."""

    card: Card
    payload: Payload
    device: str | None


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the card's options, and where the client and new tokens come from."""
    add_card_options(parser)
    group = parser.add_argument_group("what goes onto it")
    group.add_argument("--wheelhouse", type=Path, metavar="FOLDER", help="as `wheelhouse --out` made it")
    group.add_argument(
        "--ca", type=Path, metavar="FOLDER", help="the authority, to make each card's token now"
    )


def card_jobs(arguments: argparse.Namespace, *, dry_run: bool = False) -> list[CardJob]:
    """The cards that the options describe, in order, with their payloads.

    A new token takes the place of the card's last one, so a dry run makes none.

    Raises:
        CardError: as `cards_from`, or no wheelhouse is named.
        WheelhouseError, BundleError: the wheelhouse is damaged or of another system.
        PkiError, EnrolmentServiceError: ``--ca`` is no authority, or makes no token for such a name.
    """
    tables = card_tables(arguments)
    cards = cards_from(arguments, _issuer(arguments.ca, dry_run) if arguments.ca else None)
    held: dict[Path, Wheelhouse] = {}
    return [_job(card, tables[card.name], arguments.wheelhouse, held) for card in cards]


def _issuer(folder: Path, dry_run: bool) -> Issue:
    authority = FleetCA.open(folder)
    if dry_run:
        return lambda _name: "not-made-in-a-dry-run"
    return lambda name: issue_tokens(authority, [name])[0].text


def _job(card: Card, plain: dict[str, Any], wheelhouse: Path | None, held: dict[Path, Wheelhouse]) -> CardJob:
    named = wheelhouse or plain.get("wheelhouse")
    if named is None:
        raise CardError(
            f"card {card.name}: no client to put on it; give --wheelhouse FOLDER, "
            f"made with: bramble-provision wheelhouse --target {card.target}"
        )
    folder = Path(str(named).replace("{target}", card.target))
    if folder not in held:
        held[folder] = open_wheelhouse(folder)
    return CardJob(card, payload(card, held[folder]), plain.get("device"))
