"""SCAFFOLD: each client corrects its gradients by how much they differ from the fleet's.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020,
https://arxiv.org/abs/1910.06378, Algorithm 1 with option II. A client steps along g(y) - c_i + c and then
sets c_i to c_i - c + (x - y) / (K * learning rate) (`edge_client.training.scaffold`); the server moves the
weights by the mean delta and c by the clients' changes.

The paper counts clients alike. Here a client counts by its examples in both sums, as in every other strategy
of this room, so that c stays the gradient of the same objective; with equal counts it is the paper's.

The changes of c_i are coded as updates are. A client moves its c_i by what it sent, not by what it wanted to
send, so that c is the mean of the c_i whatever the codec leaves out; what was left out is part of the next
difference (EF21, Richtarik et al., 2021, https://arxiv.org/abs/2106.05203).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from broker_server.strategies.base import ClientUpdate, Fleet, Rate, State, Strategy
from broker_server.strategies.sums import Sums
from compression.spec import Optimizer, Weights

CONTROL_SLOT = "control"


@dataclass(frozen=True, slots=True)
class Scaffold(Strategy):
    """The mean of clients whose drift is corrected.

    Attributes:
        server_learning_rate: of the step by the mean delta; the paper's eta_g.
    """

    TAG: ClassVar[str] = "scaffold"
    PAPER: ClassVar[str] = "Karimireddy et al., 2020"
    CONTROL: ClassVar[bool] = True
    server_learning_rate: Rate = 1.0

    def problem(self, optimizer: Optimizer) -> str | None:
        """A control variate is a mean gradient: only plain SGD moves by it."""
        if optimizer == "sgd":
            return None
        return f"scaffold needs model.optimizer = 'sgd': what {optimizer} moves by is not the gradient"

    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """Move the weights by the mean delta, and c by the share that these clients are of the fleet."""
        deltas, changes = Sums(), Sums()
        for update in updates:
            if update.variate is None:
                raise ValueError("scaffold: an update without the change of its control variate")
            deltas.add(update.delta, update.weight)
            changes.add(update.variate, float(update.examples))
        moved = changes.over(max(float(fleet.examples), changes.weight))
        control = state.get(CONTROL_SLOT) or {}
        after = {name: control[name] + array if control else array for name, array in moved.items()}
        return {CONTROL_SLOT: after}, _step(deltas, self.server_learning_rate, fleet)


def _step(deltas: Sums, rate: float, fleet: Fleet) -> Weights:
    """Statistics are averaged; only what gradients move goes at the server's pace."""
    mean = deltas.mean()
    return mean if rate == 1.0 else {**mean, **scaled(fleet.trained(mean), rate)}


def scaled(tensors: Weights, factor: float) -> Weights:
    """Each times a factor."""
    return {name: array * array.dtype.type(factor) for name, array in tensors.items()}
