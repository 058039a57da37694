"""FedNova: clients that took more steps do not pull the average their way.

Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, 2020,
https://arxiv.org/abs/2007.07481, equations 6 and 7: each delta is divided by how far its client's optimiser
goes for one gradient, ||a_i||_1, averaged, and multiplied by the mean of these. For plain SGD ||a_i||_1 is
the number of steps tau_i; section 4 has it for momentum. With equal steps this is FedAvg.

A claim of steps divides in full, which only makes the claimant's own part smaller; in the mean it counts as
far as its capped examples allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from broker_server.strategies.base import ClientUpdate, Fleet, Rate, State, Strategy
from broker_server.strategies.sums import Sums
from compression.spec import Optimizer, Weights

MOMENTUM = 0.9  # of the devices' optimisers: compression.trainable.optimizers


def steps_taken(steps: int, optimizer: Optimizer) -> float:
    """||a||_1: the sum over steps of how far their gradients went in the end, in learning rates.

    For Adam and AdamW it is the number of steps, which is right as far as their steps are alike in size.
    """
    if optimizer not in ("momentum", "nesterov"):
        return float(steps)
    rho = MOMENTUM
    total = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    return total if optimizer == "momentum" else steps + rho * total


@dataclass(frozen=True, slots=True)
class FedNova(Strategy):
    """The mean of normalised deltas.

    Attributes:
        server_learning_rate: of the step.
    """

    TAG: ClassVar[str] = "fednova"
    PAPER: ClassVar[str] = "Wang et al., 2020"
    server_learning_rate: Rate = 1.0

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """tau_eff times the mean of delta_i / tau_i; statistics are averaged as they are."""
        moved, measured, steps = Sums(), Sums(), 0.0
        for update in updates:
            if update.steps < 1:
                raise ValueError("fednova: an update of no steps")
            taken = steps_taken(update.steps, fleet.optimizer)
            counted = (
                update.steps if update.counted_steps is None else min(update.steps, update.counted_steps)
            )
            steps += update.weight * steps_taken(counted, fleet.optimizer)
            moved.add(fleet.trained(update.delta), update.weight, scale=update.weight / taken)
            measured.add(fleet.measured(update.delta), update.weight)
        effective = steps / (moved.weight or 1.0)
        step = moved.mean(times=effective * self.server_learning_rate)
        return state, step | (measured.mean() if fleet.statistics else {})
