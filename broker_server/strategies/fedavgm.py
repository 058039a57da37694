"""FedAvgM: momentum on the server.

Hsu et al., Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
2019, https://arxiv.org/abs/1909.06335, section 4.3: v is momentum * v + the mean delta, and the weights move
by v. With a momentum of 0 this is FedAvg.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from broker_server.strategies.base import ClientUpdate, Decay, Fleet, Rate, State, Strategy
from broker_server.strategies.fedavg import mean_delta
from compression.spec import Weights


@dataclass(frozen=True, slots=True)
class FedAvgM(Strategy):
    """The mean with momentum.

    Attributes:
        momentum: how much of the movement stays.
        server_learning_rate: of the step.
    """

    TAG: ClassVar[str] = "fedavgm"
    PAPER: ClassVar[str] = "Hsu et al., 2019"
    momentum: Decay = 0.9
    server_learning_rate: Rate = 1.0

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """One step with momentum; statistics are averaged as they are."""
        mean = mean_delta(updates)
        velocity, step = {}, dict(mean)
        for name, delta in fleet.trained(mean).items():
            before = state["velocity"][name] if state else np.zeros_like(delta)
            velocity[name] = np.asarray(self.momentum * before + delta, np.float32)
            step[name] = np.asarray(self.server_learning_rate * velocity[name], np.float32)
        return {"velocity": velocity}, step
