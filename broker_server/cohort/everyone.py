"""Everyone who is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from broker_server.cohort.base import Candidate, Cohort, Ranked


@dataclass(frozen=True, slots=True)
class Everyone(Cohort):
    """No choice: with a size, the first so many results count."""

    TAG: ClassVar[str] = "all"

    def count(self, candidates: int, already: int = 0) -> int:
        """All of them."""
        del already
        return candidates

    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """In order of name."""
        del count, round_number, rng
        return [Ranked(one.name, "everyone is asked", "") for one in candidates]
