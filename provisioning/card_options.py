"""The options that describe cards, shared by ``flash`` and ``image``."""

from __future__ import annotations

import argparse

from provisioning.card import Card


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--card``, ``--name``, ``--wifi-ssid`` and the other options that `cards_from` reads."""
    parser.add_argument("--card", metavar="FILE", help="settings: [defaults] and [cards.NAME]")


def cards_from(arguments: argparse.Namespace) -> list[Card]:
    """The cards that the options describe, in order; at least one.

    Raises:
        CardError: an unknown key (with the nearest known one), a missing or impossible value, a secret
            that cannot be read.
    """
    raise NotImplementedError
