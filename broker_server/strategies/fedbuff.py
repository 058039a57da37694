"""FedBuff: no rounds to wait for; the server takes a step whenever a few updates have come.

Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, 2022,
https://arxiv.org/abs/2106.06639, Algorithm 1: the step is the mean of K deltas, each times
(1 + staleness)^-0.5, staleness being the number of steps since the version that the device began from. It is
divided by the number of updates, not by what staleness leaves of it: a buffer of old updates moves the
weights less. The paper counts clients alike, here they count by examples; with equal counts it is the same.
Devices with few examples are soon done and would fill most buffers, so a buffer with fewer examples than as
many average devices have moves the weights less too.

The waiting is the round machine's business (`broker_server.rounds.machine`): a stage ends with K results, and
who is still at work goes on with what they have. A device counts once in each buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from broker_server.strategies.base import ClientUpdate, Fleet, Rate, State, Strategy
from broker_server.strategies.scaffold import scaled
from broker_server.strategies.sums import Sums
from compression.records import Between
from compression.spec import Weights


@dataclass(frozen=True, slots=True)
class FedBuff(Strategy):
    """The mean of a buffer.

    Attributes:
        buffer: the paper's K.
        server_learning_rate: of the step.
        exponent: what staleness takes from an update, (1 + staleness)^-exponent.
        max_staleness: an older update is refused.
    """

    TAG: ClassVar[str] = "fedbuff"
    PAPER: ClassVar[str] = "Nguyen et al., 2022"
    BUFFERED: ClassVar[bool] = True
    buffer: Annotated[int, Between(1, 4096)] = 3
    server_learning_rate: Rate = 1.0
    exponent: Annotated[float, Between(0.0, 10.0)] = 0.5
    max_staleness: Annotated[int, Between(0, 1000)] = 10

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """The discounted deltas over the whole weight; statistics are averaged as they are."""
        sums, examples, count = Sums(), 0, 0
        for update in updates:
            sums.add(update.delta, update.weight)
            examples += update.examples
            count += 1
        mean = sums.mean()
        kept = sums.weight / max(examples, count * fleet.mean_examples)
        return state, {**mean, **scaled(fleet.trained(mean), kept * self.server_learning_rate)}
