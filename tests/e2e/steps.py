"""What the run did and how long each step took: a table for people, JSON for machines."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from compression.text_table import text_table


@dataclass
class Step:
    """One step and its wall time in seconds."""

    name: str
    wall_s: float = 0.0
    note: str = ""


@dataclass
class Record:
    """The steps so far, the moments of the emulated Pi's boot, and what was found out."""

    label: str
    steps: list[Step] = field(default_factory=list)
    moments: dict[str, float] = field(default_factory=dict)  # seconds since power-on
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        print(f"--- {name}", flush=True)
        step, started = Step(name), time.monotonic()
        self.steps.append(step)
        try:
            yield step
        finally:
            step.wall_s = round(time.monotonic() - started, 1)

    def moment(self, name: str, uptime_s: float) -> None:
        """The first time counts, where a name comes again after a second boot."""
        print(f"    {uptime_s:6.0f} s after power-on: {name}", flush=True)
        self.moments.setdefault(name, round(uptime_s, 1))

    def text(self) -> str:
        """For people; tables inside the facts are in the JSON only."""
        steps = [[step.name, f"{step.wall_s:.1f}", step.note] for step in self.steps]
        moments = [[name, f"{seconds:.0f}"] for name, seconds in self._moments()]
        facts = [f"{name}: {value}" for name, value in self.facts.items() if not isinstance(value, dict)]
        parts = [text_table([f"step, {self.label}", "wall s", ""], steps)]
        if moments:
            parts.append(text_table([f"moment, {self.label}", "s after power-on"], moments))
        return "\n\n".join([*parts, "\n".join(facts)])

    def _moments(self) -> list[tuple[str, float]]:
        return sorted(self.moments.items(), key=itemgetter(1))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def child_cpu_s() -> float:
    """Processor seconds of all programs that were run and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(usage.ru_utime + usage.ru_stime, 1)
