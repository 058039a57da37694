"""In turn: who has waited longest is asked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from broker_server.cohort.base import Candidate, Cohort, Ranked


@dataclass(frozen=True, slots=True)
class RoundRobin(Cohort):
    """Each device once before any device twice, as far as they are there."""

    TAG: ClassVar[str] = "round-robin"

    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """By the rounds since each was asked, those first that never were; then by name."""
        del count, round_number, rng
        order = sorted(candidates, key=lambda one: (one.asked > 0, -one.waited, one.name))
        return [_ranked(one) for one in order]


def _ranked(one: Candidate) -> Ranked:
    waited = f"waited {one.waited} rounds" if one.asked else "never asked so far"
    return Ranked(one.name, f"its turn: {waited}", f"not its turn: {waited}")
