"""Consoles for the report and the live view: colour and boxes on a terminal, plain text anywhere else."""

from __future__ import annotations

from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from broker_server.report.words import NOT_MEASURED, printable

PIPE_WIDTH = 100  # of a file or a pipe, which have none of their own
_THEME = Theme(
    {"good": "green", "bad": "bold red", "neutral": "yellow", "quiet": "dim", "title": "bold cyan"}
)


def open_console(stream: IO[str] | None = None, *, stderr: bool = False, width: int | None = None) -> Console:
    """A console on `stream`, or on standard output or error; ``NO_COLOR`` and ``TERM=dumb`` are heeded."""
    console = Console(file=stream, stderr=stderr, width=width, theme=_THEME, highlight=False, emoji=False)
    if width is None and not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def foreign(text: str, console: Console, style: str = "") -> Text:
    """Text from the data: no markup, no control characters, nothing that the stream cannot encode."""
    seen = printable(text)
    return Text(seen.encode(console.encoding, "replace").decode(console.encoding), style=style)


def table(console: Console) -> Table:
    """An empty table in the house style."""
    lines = box.SIMPLE_HEAD if console.is_terminal else box.ASCII2
    return Table(box=lines, show_edge=False, pad_edge=False, header_style="bold")


def figure(text: str, console: Console) -> Text:
    """A figure in words; what was not measured is quiet."""
    return foreign(text, console, "quiet" if text == NOT_MEASURED else "")
