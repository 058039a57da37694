"""By chance, each device as likely as the other: what the theory of most strategies assumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from broker_server.cohort.base import Candidate, Cohort, Ranked


@dataclass(frozen=True, slots=True)
class AtRandom(Cohort):
    """A draw without replacement, from the run's seed and the round."""

    TAG: ClassVar[str] = "random"

    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """In an order drawn by chance."""
        del round_number
        odds = f"{count} of {len(candidates)}"
        order = rng.permutation(len(candidates)).tolist()
        return [Ranked(candidates[i].name, f"drawn, {odds}", f"not drawn, {odds}") for i in order]
