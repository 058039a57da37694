"""Bytes, rate and time left on standard error, where that is a terminal and rich is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from provisioning.image.flash import OnProgress, Step, no_progress


@contextmanager
def transfer_bar(total: int | None) -> Iterator[OnProgress]:
    """What `flash` reports, as a bar for each step. `total` in bytes, None where nobody knows."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich import progress  # noqa: PLC0415 - nobody sees it otherwise
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        yield no_progress
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[Step, progress.TaskID] = {}

        def show(step: Step, count: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=None if step == "personalising" else total)
            bar.update(tasks[step], completed=count)

        yield show
