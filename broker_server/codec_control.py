"""``codec = "auto"``: how hard updates are compressed, chosen before each round from the rounds so far.

A rung of the ladder is a profile. Training that stalls climbs to one that keeps more; training that gets
on, over a link that rounds wait for, goes down to one that keeps less: the idea of AdaQuantFL (Jhunjhunwala
et al., 2021, https://arxiv.org/abs/2102.04487), with the link's share of a round as the reason to save at
all. A pure function of the rounds' records: after a restart the same rounds give the same choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker_server.config import AUTO
from broker_server.records import RoundRecord
from broker_server.store.ledger import Ledger

LADDER = ("tiny", "small", "medium", "safe")  # from the fewest bytes to the most
FIRST = "small"
GAIN = 0.005  # relative: a loss that falls by less than this has not got on
PATIENCE = 2  # rounds without a gain before more is sent
CONFIDENCE = 2  # rounds with a gain before less is sent
SLOW_LINK = 0.25  # share of a round that is not training: above it, bytes are worth saving


@dataclass(frozen=True, slots=True)
class _Course:
    """Where the controller stands after some rounds."""

    rung: int = LADDER.index(FIRST)
    best: float = float("inf")
    stalled: int = 0
    gained: int = 0

    def after(self, loss: float, waiting: float) -> _Course:
        """One more round."""
        if loss < self.best * (1 - GAIN):
            gained = self.gained + 1
            if gained >= CONFIDENCE and waiting > SLOW_LINK:
                return _Course(max(self.rung - 1, 0), loss)
            return _Course(self.rung, loss, 0, gained)
        stalled = self.stalled + 1
        if stalled >= PATIENCE:
            return _Course(min(self.rung + 1, len(LADDER) - 1), self.best)
        return _Course(self.rung, self.best, stalled, 0)


def choose_codec(configured: str, rounds: Iterable[RoundRecord]) -> str:
    """The profile of the next round: the configured one, or the controller's.

    Args:
        configured: a profile, or ``auto``.
        rounds: the rounds so far, in order. A round without an evaluation changes nothing.
    """
    if configured != AUTO:
        return configured
    course = _Course()
    for record in rounds:
        sums = record.evaluation or record.federated
        if sums is not None and sums.loss is not None:
            course = course.after(sums.loss, waiting_share(record))
    return LADDER[course.rung]


def codec_now(configured: str, ledger: Ledger) -> str:
    """The profile of the next round, by the rounds in the ledger."""
    rounds = ledger.rounds(RoundRecord).values() if configured == AUTO else ()
    return choose_codec(configured, rounds)


def waiting_share(record: RoundRecord) -> float:
    """Share of a round in which its slowest device was not training: the link, and the server."""
    if not record.clients or record.seconds <= 0:
        return 0.0
    training = max(client.seconds for client in record.clients.values())
    return max(0.0, 1 - training / record.seconds)
