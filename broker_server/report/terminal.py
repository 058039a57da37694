"""The closing report on a terminal of 80 columns: a verdict in plain words, then short tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker_server.report import words
from broker_server.report.calibration_grid import calibration_grid
from broker_server.report.console import figure, foreign, table
from broker_server.report.schema import RunReport
from broker_server.report.tables import (
    Grid,
    clients_grid,
    confusion_grid,
    fairness_grid,
    incidents_grid,
    models_grid,
    release_grid,
    rounds_grid,
    traffic_grid,
)
from broker_server.report.verdict import verdict

MAX_ROUNDS, MAX_CLIENTS, MAX_CLASSES = 12, 16, 6  # what fits a glance: the page and the JSON have it all
MAX_NAME = 16  # characters of a row's name that are never folded
_MARKS = {"good": "+", "neutral": "o", "bad": "!"}


def print_report(report: RunReport, console: Console) -> None:
    """Print what fits a glance."""
    _print_head(report, console)
    _print_grid(rounds_grid(report, most=MAX_ROUNDS), console)
    _print_grid(models_grid(report), console)
    if report.calibration is not None:
        _print_grid(calibration_grid(report), console)
    if len(report.data.classes) <= MAX_CLASSES:
        _print_grid(confusion_grid(report), console)
    _print_grid(traffic_grid(report), console)
    _print_grid(clients_grid(report, most=MAX_CLIENTS), console)
    if any(client.own.accuracy is not None for client in report.clients):
        _print_grid(fairness_grid(report, most=MAX_CLIENTS), console)
    _print_grid(release_grid(report, most=MAX_CLIENTS), console)
    if report.incidents:
        _print_grid(incidents_grid(report), console)
    _print_verdict(report, console)


def _print_head(report: RunReport, console: Console) -> None:
    title = Text("Run on ", style="title").append_text(foreign(report.dataset, console))
    title.append(f", {words.plural(report.devices, 'device')}, {words.seconds(report.wall_s)}")
    console.print()
    console.print(title)
    console.print(foreign(f"Model {report.model.name}. Broker: {report.broker}.", console, "quiet"))
    if report.simulated_note:
        console.print(foreign(report.simulated_note, console, "quiet"))


def _print_grid(grid: Grid, console: Console) -> None:
    console.print()
    console.print(Text(grid.title, style="title"))
    if grid.rows:
        console.print(_drawn(grid, console))
    if grid.note:
        console.print(foreign(grid.note, console, "quiet"))


def _drawn(grid: Grid, console: Console) -> Table:
    drawn = table(console)
    longest = max(len(word) for row in grid.rows for word in row[0].split() or [""])
    for index, (header, numeric) in enumerate(zip(grid.headers, grid.numeric, strict=True)):
        drawn.add_column(
            foreign(header, console),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=None if index else min(longest, MAX_NAME),
        )
    for row in grid.rows:
        drawn.add_row(*(figure(cell, console) for cell in row))
    return drawn


def _print_verdict(report: RunReport, console: Console) -> None:
    """Last, because what is printed last is what is seen first."""
    lines = Table.grid(padding=(0, 1))
    for finding in verdict(report):
        lines.add_row(Text(_MARKS[finding.tone], style=finding.tone), foreign(finding.text, console))
    console.print()
    console.print(Text("Verdict", style="title"))
    console.print(lines)
