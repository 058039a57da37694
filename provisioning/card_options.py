"""The options that describe cards, shared by ``flash`` and ``image``, and the cards they describe."""

from __future__ import annotations

import argparse
import csv
import difflib
import getpass
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from compression.command_line import names
from provisioning.card import Card, CardError
from provisioning.card_secrets import Issue, Secrets, read_text
from provisioning.card_settings import (
    CardSettings,
    anchored,
    build_card,
    check_keys,
    merged,
    record_in,
)

# Option, the key of cards.toml that it stands for, and its help. Secrets have no option, only their files.
OPTIONS = (
    ("--target", "target", "SYSTEM", "bookworm-arm64, bookworm-armhf or trixie-arm64"),
    ("--mode", "mode", "MODE", "prebaked (the default) or bundle"),
    ("--user", "user", "NAME", "who logs in; pi by default"),
    ("--password-hash-file", "password_hash_file", "FILE", "made with: openssl passwd -6"),
    ("--wifi-ssid", "wifi.ssid", "NAME", "the wireless network"),
    ("--wifi-country", "wifi.country", "CC", "two letters; without it the radio stays off"),
    ("--wifi-passphrase-file", "wifi.passphrase_file", "FILE", "else BRAMBLE_WIFI_PASSPHRASE, or asked for"),
    ("--locale", "locale", "LOCALE", "as de_DE.UTF-8; left as it is by default"),
    ("--keymap", "keymap", "LAYOUT", "as de; left as it is by default"),
    ("--timezone", "timezone", "ZONE", "as Europe/Berlin; Etc/UTC by default"),
    ("--fleet", "fleet.name", "NAME", "the fleet"),
    ("--server-key", "fleet.server_key", "HEX", "what `bramble-server init` prints"),
    ("--fleet-ca", "fleet.ca_file", "FILE", "the fleet's certificate authority, PEM"),
    ("--broker", "fleet.broker", "HOST:PORT", "the fleet's broker"),
    ("--enrolment", "fleet.enrolment", "HOST:PORT", "the fleet's enrolment service"),
    ("--token-file", "token_file", "FILE", "the card's one-time token; {name} stands for its name"),
    ("--certificate-file", "certificate_file", "FILE", "a certificate made beforehand, instead of a token"),
    ("--certificate-key-file", "key_file", "FILE", "and its key"),
    ("--data", "data.source", "SOURCE", "the device's examples, as folder:/srv/images"),
)
SWITCHES = (
    ("--wifi-hidden", "wifi.hidden", True, "the network does not tell its name"),
    ("--wifi-open", "wifi.open_network", True, "the network has no passphrase"),
    ("--no-watchdog", "watchdog", False, "leave the board's watchdog off"),
    ("--no-card-sparing", "card_sparing", False, "leave journal, /tmp and swap on the card"),
)
PREFIX = "card_"  # of the attributes in the parsed arguments


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--card``, ``--name``, ``--wifi-ssid`` and the other options that `cards_from` reads."""
    group = parser.add_argument_group(
        "the card", "Options win over the file's [cards.NAME], that over [defaults]."
    )
    group.add_argument("--card", metavar="FILE", type=Path, help="cards.toml: [defaults] and [cards.NAME]")
    group.add_argument(
        "--inventory", metavar="FILE", type=Path, help="a CSV file, one row a card, one column a key"
    )
    group.add_argument(
        "--name",
        metavar="NAME,...",
        type=names,
        action="extend",
        help="of the file's cards these, in this order; or the new card's; may be repeated",
    )
    group.add_argument("--ssh-key", metavar="FILE", action="append", help="a public key; may be repeated")
    for option, key, metavar, text in OPTIONS:
        group.add_argument(option, dest=PREFIX + key, metavar=metavar, help=text)
    for option, key, value, text in SWITCHES:
        group.add_argument(option, dest=PREFIX + key, action="store_const", const=value, help=text)


def describes_card(arguments: argparse.Namespace) -> bool:
    """Whether an option says anything about a card."""
    return bool(_flags(arguments))


def cards_from(arguments: argparse.Namespace, issue: Issue | None = None) -> list[Card]:
    """The cards that the options describe, in order; at least one.

    Args:
        issue: makes a token for a card whose settings name no identity.

    Raises:
        CardError: an unknown key (with the nearest known one), a missing or impossible value, a secret
            that cannot be read.
    """
    secrets = Secrets(os.environ, getpass.getpass if sys.stdin.isatty() else None, issue)
    return [build_card(name, plain, secrets) for name, plain in card_tables(arguments).items()]


def card_tables(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The merged settings of each chosen card, by name."""
    defaults, listed = read_cards(arguments.card) if arguments.card else ({}, {})
    if arguments.inventory:
        rows = read_inventory(arguments.inventory)
        listed = {name: merged(listed.get(name, {}), row) for name, row in rows.items()}
    chosen = arguments.name or tuple(listed)
    if not chosen:
        raise CardError("no card is named: give --name, or --card or --inventory with cards in it")
    for name in chosen:
        if listed and name not in listed:
            near = difflib.get_close_matches(name, listed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(listed)}"
            raise CardError(f"no card is named {name!r}; {hint}")
    flags = _flags(arguments)
    return {name: merged(merged(defaults, listed.get(name, {})), flags) for name in chosen}


def read_cards(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The defaults and the cards of a ``cards.toml``, keys checked, paths absolute."""
    try:
        plain = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as exc:
        raise CardError(f"{path} is not TOML: {exc}") from exc
    if unknown := sorted(set(plain) - {"defaults", "cards"}):
        raise CardError(f"{path}: unknown table {unknown[0]!r}; there may be [defaults] and [cards.NAME]")
    defaults, cards = plain.get("defaults", {}), plain.get("cards", {})
    for where, table in [("defaults", defaults), *((f"cards.{name}", card) for name, card in cards.items())]:
        if not isinstance(table, dict):
            raise CardError(f"{path}: {where} must be a table")
        check_keys(table, f"{path}: {where}")
    folder = path.resolve().parent
    return anchored(defaults, folder), {name: anchored(card, folder) for name, card in cards.items()}


def read_inventory(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a CSV file: a column ``name``, others are keys of cards.toml; empty cells set nothing."""
    cards: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(csv.DictReader(read_text(path).splitlines()), start=2):
        name = (row.pop("name", None) or "").strip()
        if not name or name in cards or None in row:
            raise CardError(
                f"{path}, line {number}: each row needs a name of its own and no more columns than the head"
            )
        card: dict[str, Any] = {}
        for key, text in row.items():
            if text is not None and text.strip():
                _put(card, key.strip(), text.strip())
        check_keys(card, f"{path}, line {number}")
        cards[name] = anchored(_typed(card, CardSettings, f"{path}, line {number}"), path.resolve().parent)
    return cards


def _typed(card: Mapping[str, Any], cls: Any, where: str) -> dict[str, Any]:
    """A row's texts as the types of their keys."""
    hints = get_type_hints(cls)
    result: dict[str, Any] = {}
    for key, value in card.items():
        inner = record_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            result[key] = _typed(value, inner, where)
        elif hints[key] is bool:
            if value not in {"yes", "no", "true", "false"}:
                raise CardError(f"{where}: {key} must be yes or no, got {value!r}")
            result[key] = value in {"yes", "true"}
        elif hints[key] in {int, float}:
            try:
                result[key] = hints[key](value)
            except ValueError as exc:
                raise CardError(f"{where}: {key} must be a number, got {value!r}") from exc
        else:
            result[key] = value
    return result


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for _, key, *_ in (*OPTIONS, *SWITCHES):
        value = getattr(arguments, PREFIX + key)
        if value is not None:
            _put(flags, key, value)
    if arguments.ssh_key:
        flags["ssh_key_files"] = list(arguments.ssh_key)
    return anchored(flags, Path.cwd())


def _put(table: dict[str, Any], dotted: str, value: Any) -> None:
    *outer, last = dotted.split(".")
    for key in outer:
        table = table.setdefault(key, {})
    table[last] = value
