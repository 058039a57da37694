"""Oort: devices whose examples the model still does badly on, and that are fast enough, come first.

Lai et al., Oort: Efficient Federated Learning via Guided Participant Selection, OSDI 2021,
https://arxiv.org/abs/2010.06081, Algorithm 1. The utility of a device is the number of its examples times the
loss on them (equation 1), scaled to 0..1 over the devices, plus a bonus that grows with the time since it was
last seen, times a penalty for a device slower than the preferred time. A share of the cohort, falling from
round to round, goes to devices that never took part, the faster the likelier. The rest is drawn by utility
among those within 5 % of the last that would get in.

Different from the paper: a device tells its mean loss, so the root mean square of its examples' losses is
taken for their mean; the preferred time is a percentile of the devices' times, there is no pacer; and no
device waits more than `at_least_every` rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from broker_server.cohort.base import Candidate, Cohort, Ranked, floor_first
from broker_server.cohort.resources import speed
from compression.records import Between

CUT_OFF = 0.95  # of the last utility that would get in: the paper's c
CLIP = 0.95  # quantile above which utilities are cut: one outlier must not decide
UNCERTAINTY = 0.1

Fraction = Annotated[float, Between(0.0, 1.0)]


@dataclass(frozen=True, slots=True)
class Oort(Cohort):
    """By utility.

    Attributes:
        explore: share of the first cohort for devices that never took part.
        explore_decay: its factor from round to round.
        explore_least: where it stops falling.
        penalty: exponent for devices slower than the preferred time; the paper's alpha.
        preferred: quantile of the devices' times that is fast enough.
        at_least_every: rounds that a device waits at most, whatever it is worth: the fairness floor.
    """

    TAG: ClassVar[str] = "oort"
    explore: Fraction = 0.9
    explore_decay: Fraction = 0.98
    explore_least: Fraction = 0.2
    penalty: Annotated[float, Between(0.0, 10.0)] = 2.0
    preferred: Fraction = 0.75
    at_least_every: Annotated[int, Between(1, 100_000)] = 10

    def rank(
        self, candidates: Sequence[Candidate], count: int, round_number: int, rng: np.random.Generator
    ) -> list[Ranked]:
        """Devices drawn by utility, then those that are tried, then the rest by utility; the floor first."""
        known = {one.name: one for one in candidates if one.loss is not None}
        new = [one for one in candidates if one.loss is None]
        share = max(self.explore * self.explore_decay ** (round_number - 1), self.explore_least)
        tried = min(len(new), max(round(share * count), count - len(known)))
        worth = self.utilities(list(known.values()), round_number)
        drawn = _draw(worth, count - tried, rng)
        explored = _draw({one.name: speed(one, candidates) for one in new}, tried, rng, cut_off=0.0)
        rest = [name for name in sorted(worth, key=lambda name: -worth[name]) if name not in drawn]
        rest += [one.name for one in new if one.name not in explored]
        ranked = [_ranked(name, worth) for name in (*drawn, *explored, *rest)]
        return floor_first(candidates, ranked, self.at_least_every)

    def utilities(self, known: Sequence[Candidate], round_number: int) -> dict[str, float]:
        """Utility of each device that has taken part."""
        if not known:
            return {}
        raw = np.array([one.examples * (one.loss or 0.0) for one in known])
        clipped = np.minimum(raw, np.quantile(raw, CLIP))
        spread = float(np.ptp(clipped)) or 1.0
        limit = float(np.quantile([one.seconds or 0.0 for one in known], self.preferred))
        return {
            one.name: (float(value - clipped.min()) / spread + _bonus(one, round_number))
            * self._penalty(one, limit)
            for one, value in zip(known, clipped, strict=True)
        }

    def _penalty(self, one: Candidate, limit_s: float) -> float:
        slow = one.seconds is not None and one.seconds > limit_s > 0
        return (limit_s / one.seconds) ** self.penalty if slow and one.seconds else 1.0


def _bonus(one: Candidate, round_number: int) -> float:
    """What not having heard of it for long is worth: its loss may be out of date."""
    return math.sqrt(UNCERTAINTY * math.log(max(round_number, 2)) / max(one.loss_round, 1))


def _draw(
    worth: Mapping[str, float], count: int, rng: np.random.Generator, cut_off: float = CUT_OFF
) -> list[str]:
    """So many names, the likelier the more they are worth, of those near enough to the best."""
    order = sorted(worth, key=lambda name: (-worth[name], name))
    if count <= 0 or not order:
        return []
    least = cut_off * worth[order[min(count, len(order)) - 1]]
    pool = [name for name in order if worth[name] >= least]
    odds = np.array([max(worth[name], 1e-12) for name in pool])
    chosen = rng.choice(len(pool), min(count, len(pool)), replace=False, p=odds / odds.sum())
    return [pool[index] for index in chosen.tolist()]


def _ranked(name: str, worth: Mapping[str, float]) -> Ranked:
    if name not in worth:
        return Ranked(name, "explored: it has never taken part", "never took part, not its turn to be tried")
    return Ranked(name, f"utility {worth[name]:.3f}", f"utility {worth[name]:.3f}, others are worth more")
