"""Processes that are measured from outside: memory and processor time of whole trees, from /proc.

PSS (proportional set size) is what `smaps_rollup` says: a page that several processes share counts for each
of them in part, so the sum over a machine's processes is what they really take.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_client.measure.children import ROOT

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
MIN_SAMPLES = 4  # between two moments, to know the processor time between them


def our_environment() -> dict[str, str]:
    """For a child of this package: our packages can be imported, and one thread computes."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """One tree of processes at one moment; processor time includes that of children that have ended."""

    at: float  # time.monotonic()
    pss_mb: float
    rss_mb: float
    cpu_s: float
    processes: int


def tree(root: int, *, proc: Path = PROC) -> list[int]:
    """A process and all that descend from it, itself first."""
    return _descent(root, _children(proc))


def _children(proc: Path) -> dict[int, list[int]]:
    """All processes by their parent."""
    found: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdecimal() and (fields := _stat(folder)):
            found.setdefault(int(fields[1]), []).append(int(folder.name))
    return found


def _descent(root: int, children: Mapping[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def usage(pids: list[int], *, proc: Path = PROC) -> Usage:
    """What these processes take now; one that has ended takes nothing."""
    pss = rss = cpu = 0.0
    for pid in pids:
        sizes = _rollup(proc / str(pid))
        pss += sizes.get("Pss", 0)
        rss += sizes.get("Rss", 0)
        if fields := _stat(proc / str(pid)):
            cpu += sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S  # utime, stime, cutime, cstime
    return Usage(time.monotonic(), pss * 1024 / 1e6, rss * 1024 / 1e6, cpu, len(pids))


def _stat(folder: Path) -> list[str]:
    """The fields of `stat` after the name, which may hold anything; the first is the state."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _rollup(folder: Path) -> dict[str, int]:
    """Sizes in KiB; empty for a process that is gone or not ours."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


@dataclass
class Sampler:
    """Looks at named trees every `every_s` seconds in a thread of its own, while entered."""

    roots: Mapping[str, int]
    every_s: float = 1.0
    alone: frozenset[str] = frozenset()  # of these the root only, without its children
    samples: dict[str, list[Usage]] = field(default_factory=dict)

    def __enter__(self) -> Sampler:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """One sample of every tree that still holds memory: one that has ended would give its time back."""
        children = _children(PROC)  # once for all: it takes time from what is measured
        for name, root in self.roots.items():
            taken = usage([root] if name in self.alone else _descent(root, children))
            if taken.rss_mb or name not in self.samples:
                self.samples.setdefault(name, []).append(taken)

    def peak(self, name: str) -> Usage:
        """The sample with the most memory."""
        return max(self.samples[name], key=lambda sample: sample.pss_mb)

    def cpu_s(self, name: str, start: float, end: float) -> float | None:
        """Processor seconds between two moments of `time.monotonic`, by the samples next to them.

        None where these are too far apart to say: less than four times `every_s`.
        """
        if end - start < MIN_SAMPLES * self.every_s:
            return None
        first, last = (min(self.samples[name], key=lambda s: abs(s.at - moment)) for moment in (start, end))
        return (last.cpu_s - first.cpu_s) / (last.at - first.at) * (end - start)

    def _watch(self) -> None:
        self.look()
        while not self._stop.wait(self.every_s):
            self.look()
