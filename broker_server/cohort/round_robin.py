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
        """By the rounds since each was asked, all so far for those that never were; then by name."""
        del count, rng
        order = sorted(candidates, key=lambda one: (-one.waited, one.name))
        return [_ranked(one, round_number) for one in order]


def _ranked(one: Candidate, round_number: int) -> Ranked:
    waited = f"waited {one.waited} rounds" if one.waited < round_number - 1 else "never asked so far"
    return Ranked(one.name, f"its turn: {waited}", f"not its turn: {waited}")
