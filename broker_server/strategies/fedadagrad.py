"""FedAdagrad: Adagrad on the server. Reddi et al., 2021, https://arxiv.org/abs/2003.00295, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broker_server.strategies.adaptive import Adaptive
from broker_server.strategies.base import Decay
from broker_server.strategies.sums import Floats


@dataclass(frozen=True, slots=True)
class FedAdagrad(Adaptive):
    """v is the sum of all squares so far. The paper has it without momentum."""

    TAG: ClassVar[str] = "fedadagrad"
    beta_1: Decay = 0.0

    def squares(self, v: Floats, delta: Floats) -> Floats:
        """v + delta^2."""
        return v + delta**2
