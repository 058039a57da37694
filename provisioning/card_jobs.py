"""Cards with all that goes onto them: what ``flash`` and ``image`` work through."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provisioning.bundle.payload import payload
from provisioning.card import Card, CardError, EnrolmentToken, Secret
from provisioning.card_options import add_card_options, card_tables, cards_from
from provisioning.customise.apply import check_tools
from provisioning.customise.payload import Payload
from provisioning.enrolment.tokens import issue_tokens
from provisioning.pki.authority import FleetCA
from provisioning.wheelhouse.make import Wheelhouse, open_wheelhouse

TO_BE_ISSUED = "a token that is made once all is known to be well"


@dataclass(frozen=True, slots=True)
class CardJob:
    """One card, its payload, and the device that the file names for it."""

    card: Card
    payload: Payload
    device: str | None
    wheelhouse: Wheelhouse


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the card's options, and where the client and new tokens come from."""
    add_card_options(parser)
    group = parser.add_argument_group("what goes onto it")
    group.add_argument("--wheelhouse", type=Path, metavar="FOLDER", help="as `wheelhouse --out` made it")
    add_authority_option(group)


def add_authority_option(group: argparse._ActionsContainer) -> None:
    """Add ``--ca``, which `described_cards` and `with_tokens` read."""
    group.add_argument(
        "--ca", type=Path, metavar="FOLDER", help="the authority, to make each card's token now"
    )


def described_cards(arguments: argparse.Namespace) -> list[Card]:
    """`cards_from`; with ``--ca`` a card may wait for its token, which `with_tokens` makes."""
    if arguments.ca:
        FleetCA.open(arguments.ca)
    return cards_from(arguments, (lambda _name: TO_BE_ISSUED) if arguments.ca else None)


def card_jobs(arguments: argparse.Namespace, *, dry_run: bool = False) -> list[CardJob]:
    """The cards that the options describe, in order, with their payloads.

    A new token takes the place of the card's last one, so a dry run makes none.

    Raises:
        CardError: as `cards_from`, or no wheelhouse is named.
        WheelhouseError, BundleError: the wheelhouse is damaged or of another system.
        PkiError, EnrolmentServiceError: ``--ca`` is no authority, or makes no token for such a name.
    """
    tables = card_tables(arguments)
    cards = described_cards(arguments)
    for card in cards:
        check_tools(card)
    houses = _wheelhouses(cards, tables, arguments.wheelhouse)
    jobs = [
        CardJob(card, payload(card, house), tables[card.name].get("device"), house)
        for card, house in zip(cards, houses, strict=True)
    ]
    return jobs if dry_run else complete_jobs(jobs, arguments.ca)


def complete_jobs(jobs: Sequence[CardJob], folder: Path | None) -> list[CardJob]:
    """The same with new tokens on the cards that wait for one, as `with_tokens` makes them."""
    cards = with_tokens([job.card for job in jobs], folder)
    return [
        job if card == job.card else replace(job, card=card, payload=payload(card, job.wheelhouse))
        for job, card in zip(jobs, cards, strict=True)
    ]


def _wheelhouses(
    cards: Sequence[Card], tables: Mapping[str, Mapping[str, Any]], given: Path | None
) -> list[Wheelhouse]:
    """Each card's client; one folder is opened once."""
    held: dict[Path, Wheelhouse] = {}
    found = []
    for card in cards:
        named = given or tables[card.name].get("wheelhouse")
        if named is None:
            raise CardError(
                f"card {card.name}: no client to put on it; give --wheelhouse FOLDER, "
                f"made with: bramble-provision wheelhouse --target {card.target} --out FOLDER"
            )
        folder = Path(str(named).replace("{target}", card.target))
        if folder not in held:
            held[folder] = open_wheelhouse(folder)
        found.append(held[folder])
    return found


def with_tokens(cards: Sequence[Card], folder: Path | None) -> list[Card]:
    """New tokens for the cards that wait for one, all at once and when nothing else can be wrong any more.

    Args:
        folder: the authority's; None leaves the cards as they are.
    """
    if folder is None:
        return list(cards)
    issued = issue_tokens(FleetCA.open(folder), [card.name for card in cards if waits_for_token(card)])
    tokens = {token.name: EnrolmentToken(Secret(token.text)) for token in issued}
    return [replace(card, identity=tokens.get(card.name, card.identity)) for card in cards]


def waits_for_token(card: Card) -> bool:
    """Whether the card's token has not been made yet."""
    return card.identity == EnrolmentToken(Secret(TO_BE_ISSUED))
