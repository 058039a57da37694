"""FedOpt: the mean delta as a gradient for an optimiser on the server; what its three members share.

Reddi et al., Adaptive Federated Optimization, 2021, https://arxiv.org/abs/2003.00295, Algorithm 2: m is a
running mean of the deltas, v of their squares in a way that each member has of its own, and the weights move
by learning_rate * m / (sqrt(v) + tau). There is no correction of the bias at the start; v starts at tau^2.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from broker_server.strategies.base import ClientUpdate, Decay, Fleet, Rate, State, Strategy
from broker_server.strategies.fedavg import mean_delta
from broker_server.strategies.sums import Floats
from compression.records import Between
from compression.spec import Weights


@dataclass(frozen=True, slots=True)
class Adaptive(Strategy):
    """Base of FedAdagrad, FedAdam and FedYogi.

    Attributes:
        server_learning_rate: eta.
        beta_1: how much of m stays.
        tau: how adaptive: the smaller the more.
    """

    PAPER: ClassVar[str] = "Reddi et al., 2021"
    server_learning_rate: Rate = 0.01
    beta_1: Decay = 0.9
    tau: Annotated[float, Between(1e-9, 1.0)] = 1e-3

    @abstractmethod
    def squares(self, v: Floats, delta: Floats) -> Floats:
        """The next v."""

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """One step of the server's optimiser; statistics are averaged as they are."""
        mean = mean_delta(updates)
        m, v, step = {}, {}, dict(mean)
        for name, delta in fleet.trained(mean).items():
            before = state["m"][name] if state else np.zeros_like(delta)
            spread = state["v"][name] if state else np.full_like(delta, self.tau**2)
            m[name] = np.asarray(self.beta_1 * before + (1 - self.beta_1) * delta, np.float32)
            v[name] = np.asarray(self.squares(spread, delta), np.float32)
            moved = self.server_learning_rate * m[name] / (np.sqrt(v[name]) + self.tau)
            step[name] = np.asarray(moved, np.float32)
        return {"m": m, "v": v}, step
