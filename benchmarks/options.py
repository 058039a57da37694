"""What the subcommands of ``bramble-bench`` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, epilog: str
) -> argparse.ArgumentParser:
    """A subcommand, with ``--json`` and an example at the end of its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, the environment in it")
    parser.set_defaults(command=run)
    return parser


def count(text: str) -> int:
    """From 1 to 4096."""
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """With commas between."""
    return tuple(count(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """With commas between."""
    return tuple(part.strip() for part in text.split(","))


def seconds(text: str) -> float:
    """Up to a day."""
    return _number(text, 0, 86_400, "a number of seconds")


def fraction(text: str) -> float:
    """From 0 to 1."""
    return _number(text, 0, 1, "a number from 0 to 1")


def rate(text: str) -> float:
    """A learning rate, as the server's settings take it."""
    return _number(text, 1e-9, 100, "a learning rate from 1e-9 to 100")


def percent(text: str) -> float:
    """As a fraction."""
    return _number(text.rstrip("%"), 0.01, 50, "a percentage from 0.01 to 50") / 100


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
