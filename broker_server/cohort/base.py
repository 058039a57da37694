"""Who is asked to train: what is known of a device, and what a rule says about it.

A rule is a frozen record of its settings and a function of the candidates: no clock, no ledger, and chance
only from the generator that it is handed. It says of every device why it was chosen or passed over.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from compression.records import Between, Length, Record
from edge_client.wire.topics import DeviceName

Reason = Annotated[str, Length(1, 200)]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could be asked, and how it did so far.

    Attributes:
        examples: for training, capped.
        cores: that its process may use.
        free_memory_mb, temperature_c, throttled, on_mains: as it said last; None where it cannot know.
        asked: rounds it was asked in.
        counted: rounds its update counted in.
        waited: rounds since it was last asked; all so far if it never was.
        seconds: from its task to its result, mean, by the server's clock; None before the first.
        loss: mean training loss the last time; None before.
        loss_round: the round of it.
    """

    name: str
    examples: int
    cores: int = 1
    free_memory_mb: float = 0.0
    temperature_c: float | None = None
    throttled: bool | None = None
    on_mains: bool | None = None
    asked: int = 0
    counted: int = 0
    waited: int = 0
    seconds: float | None = None
    loss: float | None = None
    loss_round: int = 0


@dataclass(frozen=True, slots=True)
class Selection(Record):
    """Who was asked in a round, who was not, and why."""

    rule: Annotated[str, Length(1, 40)]
    chosen: Mapping[DeviceName, Reason]
    passed: Mapping[DeviceName, Reason]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A device in the order of a rule, with its reason in either case."""

    name: str
    chosen: str
    passed: str


@dataclass(frozen=True, slots=True)
class Cohort(Record):
    """Base of all rules.

    Attributes:
        size: results that end a round; None asks all and waits for all.
        over_select: how many times as many devices are asked, for those that drop out.
    """

    TAG_KEY: ClassVar[str] = "select"
    size: Annotated[int, Between(1, 4096)] | None = None
    over_select: Annotated[float, Between(1.0, 10.0)] = 1.0

    def count(self, candidates: int, already: int = 0) -> int:
        """How many to ask of so many when some results are in; one at least."""
        if self.size is None:
            return candidates
        wanted = math.ceil(self.size * self.over_select - 1e-9) - already
        return max(1, min(candidates, wanted))

    def select(
        self, candidates: Sequence[Candidate], round_number: int, rng: np.random.Generator, already: int = 0
    ) -> Selection:
        """Choose among the candidates; equal arguments give an equal choice."""
        named = sorted(candidates, key=lambda candidate: candidate.name)
        count = self.count(len(named), already)
        return cut(self.TAG, self.rank(named, count, round_number, rng), count)

    @abstractmethod
    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """All candidates, those first that are to be asked; `candidates` come in order of name."""


def cut(rule: str, ranked: Iterable[Ranked], count: int) -> Selection:
    """The first so many are chosen."""
    order = list(ranked)
    return Selection(
        rule=rule,
        chosen={one.name: one.chosen[:200] for one in order[:count]},
        passed={one.name: one.passed[:200] for one in order[count:]},
    )


def floor_first(
    candidates: Sequence[Candidate], ranked: Sequence[Ranked], at_least_every: int
) -> list[Ranked]:
    """Devices that have waited too long move to the front, the longest waiting first."""
    waited = {candidate.name: candidate.waited for candidate in candidates}
    due = [one for one in ranked if waited[one.name] >= at_least_every]
    due.sort(key=lambda one: -waited[one.name])
    front = [
        Ranked(
            one.name,
            f"fairness floor: not asked for {waited[one.name]} rounds, at most {at_least_every}",
            f"not asked for {waited[one.name]} rounds, but others have waited longer",
        )
        for one in due
    ]
    names = {one.name for one in due}
    return front + [one for one in ranked if one.name not in names]
