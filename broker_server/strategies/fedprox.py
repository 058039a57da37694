"""FedProx: averaging, with a term in each client's loss that ties it to the round's global weights.

Li et al., Federated Optimization in Heterogeneous Networks, 2020, https://arxiv.org/abs/1812.06127. Clients
minimise f_k(w) + mu/2 * ||w - w_t||^2 (their Algorithm 2); the training program takes mu, so that the step is
one of the same optimiser. With mu = 0 this is FedAvg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from broker_server.strategies.fedavg import FedAvg
from compression.records import Between


@dataclass(frozen=True, slots=True)
class FedProx(FedAvg):
    """The mean of clients that were held back.

    Attributes:
        mu: how strongly; the paper tries 0.001 to 1.
    """

    TAG: ClassVar[str] = "fedprox"
    PAPER: ClassVar[str] = "Li et al., 2020"
    mu: Annotated[float, Between(0.0, 1000.0)] = 0.01

    @property
    def proximal_mu(self) -> float:
        """Weight of the devices' proximal term."""
        return self.mu
