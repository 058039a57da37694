"""The fleet joining, live: a table on a terminal, lines of JSON or text anywhere else."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.live import Live
from rich.table import Table
from rich.text import Text

from compression.records import to_plain
from compression.text_table import text_table
from provisioning.enrolment.progress import DeviceProgress, Stage, what_to_check

HEADER = ("device", "stage", "for", "heard", "look at")
STYLES = {"joined": "green", "enrolled": "cyan", "revoked": "dim"}
Fleet = Sequence[DeviceProgress]
Show = Callable[[Fleet, datetime], None]


def watch(
    look: Callable[[], Fleet],
    show: Show,
    stop: threading.Event,
    *,
    every_s: float = 1.0,
    until: Callable[[Fleet], bool] = lambda _fleet: False,
) -> bool:
    """Show the fleet until `stop`, or until `until` holds; whether it did."""
    while True:
        fleet = look()
        show(fleet, datetime.now(UTC))
        if until(fleet):
            return True
        if stop.wait(every_s):
            return False


def all_joined(fleet: Fleet) -> bool:
    """Whether every device that is not revoked has been heard over the broker, and there is one."""
    wanted = [device for device in fleet if device.stage != "revoked"]
    return bool(wanted) and all(device.stage == "joined" for device in wanted)


@contextmanager
def open_view(silent_s: float, *, as_json: bool) -> Iterator[Show]:
    """How to show it here: `silent_s` without a word from a device is long enough to say what to check."""
    if as_json:
        yield _JsonLines(silent_s)
    elif not sys.stdout.isatty():
        yield _TextOnChange(silent_s)
    else:
        with Live(auto_refresh=False) as live:
            yield lambda fleet, now: live.update(_table(fleet, silent_s, now), refresh=True)


class _JsonLines:
    """One line for each device whenever something about it is new."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s, self._shown = silent_s, dict[str, str]()

    def __call__(self, fleet: Fleet, now: datetime) -> None:
        for device in fleet:
            facts = to_plain(device) | {"check": what_to_check(device, self._silent_s, now)}
            line = json.dumps(facts, sort_keys=True)
            if self._shown.get(device.name) != line:
                self._shown[device.name] = line
                print(line, flush=True)


class _TextOnChange:
    """The table as text, whenever a device came to another stage or needs another look."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._shown: list[tuple[str, Stage, str]] | None = None

    def __call__(self, fleet: Fleet, now: datetime) -> None:
        state = [(device.name, device.stage, what_to_check(device, self._silent_s, now)) for device in fleet]
        if state != self._shown:
            self._shown = state
            rows = _rows(fleet, self._silent_s, now)
            lines = [text_table(HEADER[:-1], [row[:-1] for row in rows]), *_checks(rows)]
            print("\n".join(lines) if rows else "no device has a token or a certificate", flush=True)


def _checks(rows: list[list[str]]) -> list[str]:
    return [f"{row[0]}: {row[-1]}" for row in rows if row[-1]]


def _table(fleet: Fleet, silent_s: float, now: datetime) -> Table:
    table = Table(*HEADER, title=_title(fleet))
    for device, row in zip(fleet, _rows(fleet, silent_s, now), strict=True):
        table.add_row(
            *(Text(cell, STYLES.get(device.stage, "")) for cell in row[:-1]), Text(row[-1], "yellow")
        )
    return table


def _title(fleet: Fleet) -> str:
    joined = sum(device.stage == "joined" for device in fleet)
    return f"{joined} of {len(fleet)} joined"


def _rows(fleet: Fleet, silent_s: float, now: datetime) -> list[list[str]]:
    return [
        [
            device.name,
            device.stage,
            _ago(device.since, now),
            "never" if device.heard is None else _ago(device.heard, now),
            what_to_check(device, silent_s, now),
        ]
        for device in fleet
    ]


def _ago(moment: float, now: datetime) -> str:
    """Time since, as a person says it: 40 s, 12 min, 3 h, 5 d."""
    passed = max(0.0, now.timestamp() - moment)
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= seconds:
            return f"{passed / seconds:.0f} {unit}"
    return f"{passed:.0f} s"
