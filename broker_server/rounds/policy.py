"""From the settings to the rules of a run's rounds: when a stage ends, and what becomes of late results."""

from __future__ import annotations

from dataclasses import dataclass

from broker_server.config import ServerConfig
from broker_server.rounds.machine import Rules
from broker_server.strategies.fedbuff import FedBuff

EXPONENT = 0.5  # of the discount of a late update: FedBuff's


@dataclass(frozen=True, slots=True)
class LatePolicy:
    """What becomes of an update for weights that are no longer the newest.

    Attributes:
        counts: whether it counts in the round at work; else it is thrown away.
        max_staleness: versions that may have been made since the one it began from.
        exponent: what is left of its weight is (1 + staleness)^-exponent.
    """

    counts: bool = False
    max_staleness: int = 0
    exponent: float = EXPONENT

    def accepts(self, staleness: int) -> bool:
        """Whether an update of this staleness counts."""
        return staleness == 0 or (self.counts and 0 < staleness <= self.max_staleness)

    def discount(self, staleness: int) -> float:
        """What is left of its weight; 1 for a fresh one."""
        return float((1 + staleness) ** -self.exponent) if staleness else 1.0


def late_policy(config: ServerConfig) -> LatePolicy:
    """What the settings say of late results; a strategy with a buffer lives from them."""
    strategy = config.strategy
    if isinstance(strategy, FedBuff):
        return LatePolicy(True, strategy.max_staleness, strategy.exponent)
    if config.rounds.late == "weigh":
        return LatePolicy(True, config.rounds.max_staleness)
    return LatePolicy()


def rules_of(config: ServerConfig) -> Rules:
    """The round machine's rules."""
    rounds, strategy = config.rounds, config.strategy
    return Rules(
        quorum=rounds.quorum,
        wait_for=rounds.wait_for,
        wait_s=rounds.wait_s,
        deadline_s=rounds.deadline_s,
        grace_s=rounds.grace_s,
        enough=strategy.buffer if isinstance(strategy, FedBuff) else config.cohort.size,
        overlapping=late_policy(config).counts,
    )
