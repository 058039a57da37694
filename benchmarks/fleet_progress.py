"""A line a device on standard error, where that is a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARES = {"asked": 0.05, "waiting": 0.1, "fetching": 0.25, "measuring": 0.6}
OVER = ("measured", "refused", "failed")
WORDS = {"": "asked", "away": "not here"}


@contextmanager
def device_lines() -> Iterator[Callable[[str, str, str], None]]:
    """A function that shows what a device says: its name, a state in a word, and the reason."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console  # noqa: PLC0415 - drawn on a terminal only
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    except ImportError:
        yield lambda _device, _state, _reason: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(device: str, state: str, reason: str) -> None:
            if device not in tasks:
                tasks[device] = bars.add_task(device, total=1.0, what="")
            what = ": ".join(filter(None, [WORDS.get(state, state), reason]))
            bars.update(tasks[device], completed=share_of(state), what=what)

        yield show


def share_of(state: str) -> float:
    """How far a device in this state has come, roughly."""
    return 1.0 if state in OVER else SHARES.get(state, 0.0)
