"""By resources and reliability: devices that are fit, fast and have kept their word come first.

A device that is hot, throttled, on its battery or short of memory is asked only where there are not enough
others. Among the rest the order is by reliability times speed: the share of its rounds in which its update
counted, one success added on both sides so that a new device is trusted; and the fastest device's time over
its own, or, before it ever trained, its cores over the most that any has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from broker_server.cohort.base import Candidate, Cohort, Ranked, floor_first
from compression.records import Between


@dataclass(frozen=True, slots=True)
class ByResources(Cohort):
    """Fit ones first.

    Attributes:
        min_free_memory_mb: below it a device is not fit.
        max_temperature_c: above it it is not; a Pi throttles from 80 on.
        at_least_every: rounds that a device waits at most, whatever it is worth.
    """

    TAG: ClassVar[str] = "resources"
    min_free_memory_mb: Annotated[float, Between(0.0, 1e6)] = 64.0
    max_temperature_c: Annotated[float, Between(0.0, 200.0)] = 78.0
    at_least_every: Annotated[int, Between(1, 100_000)] = 10

    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """Fit devices by their score, then the others by theirs; the floor before all."""
        del count, round_number, rng
        worth = {one.name: reliability(one) * speed(one, candidates) for one in candidates}
        order = sorted(candidates, key=lambda one: (self.unfit(one) is not None, -worth[one.name], one.name))
        ranked = [self._ranked(one, candidates, worth[one.name]) for one in order]
        return floor_first(candidates, ranked, self.at_least_every)

    def unfit(self, one: Candidate) -> str | None:
        """Why a device should be spared; None if it need not be."""
        if one.throttled:
            return "throttled"
        if one.temperature_c is not None and one.temperature_c > self.max_temperature_c:
            return f"{one.temperature_c:.0f} C hot"
        if one.on_mains is False:
            return "on battery"
        if one.free_memory_mb < self.min_free_memory_mb:
            return f"{one.free_memory_mb:.0f} MB free"
        return None

    def _ranked(self, one: Candidate, candidates: Sequence[Candidate], worth: float) -> Ranked:
        if problem := self.unfit(one):
            return Ranked(one.name, f"for want of others: {problem}", problem)
        told = (
            f"score {worth:.2f}: {one.counted} of {one.asked} rounds kept, speed {speed(one, candidates):.2f}"
        )
        return Ranked(one.name, told, told)


def reliability(one: Candidate) -> float:
    """Share of the rounds in which it was asked that its update counted in, from 0 to 1."""
    return (one.counted + 1) / (one.asked + 1)


def speed(one: Candidate, candidates: Sequence[Candidate]) -> float:
    """Relative to the fastest, from 0 to 1."""
    times = [other.seconds for other in candidates if other.seconds]
    if one.seconds and times:
        return min(times) / one.seconds
    return one.cores / max(other.cores for other in candidates)
