"""FedAdam: Adam on the server. Reddi et al., 2021, https://arxiv.org/abs/2003.00295, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broker_server.strategies.adaptive import Adaptive
from broker_server.strategies.base import Decay
from broker_server.strategies.sums import Floats


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """v is a running mean of the squares.

    Attributes:
        beta_2: how much of v stays.
    """

    TAG: ClassVar[str] = "fedadam"
    beta_2: Decay = 0.99

    def squares(self, v: Floats, delta: Floats) -> Floats:
        """beta_2 * v + (1 - beta_2) * delta^2."""
        return self.beta_2 * v + (1 - self.beta_2) * delta**2
