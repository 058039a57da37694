"""``status.log``: how far the first boot has come, in a file that a person can read on any computer."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edge_client.device.slots import open_plain

MAX_LOG_BYTES = 256 * 1024  # of what is copied, and of what is kept
MAX_LINE = 500


def status_line(step: str, state: str, detail: str = "") -> str:
    """One line ``uptime_s time step state detail``, as docs/enrolment.md gives it."""
    uptime = Path("/proc/uptime").read_text("ascii").split()[0]
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return " ".join([f"{float(uptime):.1f}", moment, step, state, *detail.split()])[:MAX_LINE]


def append_status(path: Path, lines: list[str]) -> None:
    """Add lines and have them on the disk before anything else happens."""
    with path.open("a", encoding="utf-8") as log:
        log.write("".join(f"{line}\n" for line in lines))
        log.flush()
        os.fsync(log.fileno())


def copy_status(source: Path, target: Path) -> int:
    """Add the lines of `source` that `target` does not have yet, as far as there is room; how many."""
    if target.exists() and target.stat().st_size > MAX_LOG_BYTES:
        return 0
    known = set(_lines(target))
    if news := [line for line in _lines(source) if line not in known]:
        append_status(target, news)
    return len(news)


def _lines(path: Path) -> list[str]:
    try:
        with open_plain(path) as file:
            text = file.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    clean = ("".join(letter for letter in line if letter.isprintable()) for line in text.splitlines())
    return [line[:MAX_LINE] for line in clean]
