"""Federated averaging: the mean of the clients' deltas weighted by their example counts.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
https://arxiv.org/abs/1602.05629. With the deltas weighted by n_k / n and a server learning rate of 1
this is their Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from broker_server.strategies.base import ClientUpdate, Fleet, State, Strategy
from broker_server.strategies.sums import Floats, Sums
from compression.spec import Weights


def weighted_mean(updates: Iterable[tuple[Weights, float]]) -> dict[str, Floats]:
    """Mean of (delta, weight) pairs, one in memory at a time.

    Raises:
        ValueError: no update, or one without weight.
    """
    sums = Sums()
    for delta, weight in updates:
        sums.add(delta, weight)
    return sums.mean()


def mean_delta(updates: Iterable[ClientUpdate]) -> dict[str, Floats]:
    """The updates' mean by their weight: what most strategies begin with."""
    return weighted_mean((update.delta, update.weight) for update in updates)


@dataclass(frozen=True, slots=True)
class FedAvg(Strategy):
    """The mean, and nothing else."""

    TAG: ClassVar[str] = "fedavg"
    PAPER: ClassVar[str] = "McMahan et al., 2017"

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """The mean; no state."""
        del fleet
        return state, mean_delta(updates)
