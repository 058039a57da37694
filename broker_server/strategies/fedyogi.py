"""FedYogi: Yogi on the server. Reddi et al., 2021, https://arxiv.org/abs/2003.00295, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from broker_server.strategies.adaptive import Adaptive
from broker_server.strategies.base import Decay
from broker_server.strategies.sums import Floats


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """v moves by the square of the delta towards it, so it never falls fast.

    Attributes:
        beta_2: how little v moves.
    """

    TAG: ClassVar[str] = "fedyogi"
    beta_2: Decay = 0.99

    def squares(self, v: Floats, delta: Floats) -> Floats:
        """v - (1 - beta_2) * delta^2 * sign(v - delta^2)."""
        square = delta**2
        return np.asarray(v - (1 - self.beta_2) * square * np.sign(v - square), np.float32)
