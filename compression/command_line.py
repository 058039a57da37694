"""What the five programs have in common: subcommands with examples, exit statuses, errors as one line."""

from __future__ import annotations

import argparse
import importlib
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TypeAlias

from compression.errors import BrambleError

Run: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def program(name: str, description: str, examples: Sequence[str]) -> tuple[argparse.ArgumentParser, Commands]:
    """A program's parser, and where its subcommands are added."""
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser, parser.add_subparsers(metavar="COMMAND", required=True)


def group(commands: Commands, name: str, summary: str, *examples: str) -> Commands:
    """A subcommand with subcommands of its own, as ``bramble-provision ca``."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(metavar="COMMAND", required=True)


def command(
    commands: Commands, name: str, run: Run, summary: str, *examples: str, json: str | None = "print JSON"
) -> argparse.ArgumentParser:
    """A subcommand that ends its help with an example; `json` is its ``--json``'s help, None for none."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json is not None:
        parser.add_argument("--json", action="store_true", help=json)
    parser.set_defaults(run=run)
    return parser


def add_commands(commands: Commands, argv: Sequence[str] | None, adders: Mapping[str, str]) -> None:
    """Add subcommands, importing only the module of the one that is called: some take half a second to load.

    Args:
        argv: of the program; None for the process's own.
        adders: ``module:function`` by name of the subcommand; the function adds it.
    """
    words = sys.argv[1:] if argv is None else argv
    called = [word for word in words[:1] if word in adders]
    for name in called or adders:
        module, _, function = adders[name].partition(":")
        getattr(importlib.import_module(module), function)(commands)


def run_program(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run one command: 0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted."""
    arguments = parser.parse_args(argv)
    run: Run = arguments.run
    try:
        return run(arguments)
    except (BrambleError, OSError, sqlite3.Error) as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def stop_on_signals() -> threading.Event:
    """Set by Ctrl-C or SIGTERM, for a program that comes to an end by itself; the second time ends it."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _examples(examples: Sequence[str]) -> str:
    if len(examples) == 1 and "\n" not in examples[0]:
        return f"example: {examples[0]}"
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])


# ---- types of arguments ----


def count(text: str) -> int:
    """From 1 to a billion."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000000")
    return int(text)


def natural(text: str) -> int:
    """From 0 to a billion."""
    return 0 if text == "0" else count(text)


def counts(text: str) -> tuple[int, ...]:
    """With commas between."""
    return tuple(count(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """With commas between."""
    return tuple(part.strip() for part in text.split(","))


def seconds(text: str) -> float:
    """Up to a day."""
    return number(text, 0, 86_400, "a number of seconds up to a day")


def fraction(text: str) -> float:
    """From 0 to 1."""
    return number(text, 0, 1, "a number from 0 to 1")


def rate(text: str) -> float:
    """A learning rate, as the server's settings take it."""
    return number(text, 1e-9, 100, "a learning rate from 1e-9 to 100")


def percent(text: str) -> float:
    """As a fraction."""
    return number(text.rstrip("%"), 0.01, 50, "a percentage from 0.01 to 50") / 100


def number(text: str, low: float, high: float, what: str) -> float:
    """Between two bounds, both allowed; `what` says so in the error."""
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
