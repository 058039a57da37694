"""A federation of quadratic bowls: the optimum is known, and so is what drift does to averaging.

Client i has the loss 1/2 * (w - centre_i)^2 * steepness_i, coordinate by coordinate; the optimum of their
mean by examples is sum(n h a) / sum(n h). The clients' side is the device's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from broker_server.strategies import ClientUpdate, Fleet, State, Strategy
from broker_server.strategies.adaptive import Adaptive
from broker_server.strategies.fedadagrad import FedAdagrad
from broker_server.strategies.fedadam import FedAdam
from broker_server.strategies.fedavg import FedAvg
from broker_server.strategies.fedavgm import FedAvgM
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fednova import FedNova
from broker_server.strategies.fedprox import FedProx
from broker_server.strategies.fedyogi import FedYogi
from broker_server.strategies.scaffold import CONTROL_SLOT, Scaffold
from edge_client.training.scaffold import correction, moved, variate_change

Array = npt.NDArray[np.float32]
RATE = 0.05


@dataclass(frozen=True)
class Bowl:
    """One client."""

    centre: Array
    steepness: Array
    examples: int
    steps: int

    def train(self, start: Array, *, mu: float, added: Array | float) -> Array:
        w = start.copy()
        for _ in range(self.steps):
            gradient = self.steepness * (w - self.centre) + mu * (w - start) + added
            w -= np.float32(RATE) * gradient
        return w


def bowl(centre: Sequence[float], steepness: Sequence[float], examples: int = 10, steps: int = 10) -> Bowl:
    return Bowl(np.array(centre, np.float32), np.array(steepness, np.float32), examples, steps)


UNLIKE = (
    bowl([1.0, 0.0], [1.0, 4.0], 10),
    bowl([-1.0, 2.0], [6.0, 1.0], 30),
    bowl([0.0, -2.0], [2.0, 0.5], 20),
)
UNEQUAL = (bowl([1.0, 1.0], [1.0, 1.0], 10, steps=1), bowl([-1.0, 0.0], [1.0, 1.0], 10, steps=12))


def optimum(clients: Sequence[Bowl]) -> Array:
    weights = [client.examples * client.steepness for client in clients]
    centres = [weight * client.centre for weight, client in zip(weights, clients, strict=True)]
    return np.asarray(sum(centres) / sum(weights), np.float32)


def federate(strategy: Strategy, clients: Sequence[Bowl], rounds: int, start: float = 3.0) -> Array:
    """Every client in every round; the weights at the end."""
    w = np.full(2, start, np.float32)
    zeros = {"w": np.zeros(2, np.float32)}
    variates = [zeros for _ in clients]
    state: State = {}
    fleet = Fleet(examples=sum(client.examples for client in clients))
    for _ in range(rounds):
        control = state.get(CONTROL_SLOT, zeros)
        updates = []
        for index, client in enumerate(clients):
            added = correction(control, variates[index])["w"] if strategy.CONTROL else 0.0
            delta = {"w": client.train(w, mu=strategy.proximal_mu, added=added) - w}
            change = variate_change(control, variates[index], delta, steps=client.steps, learning_rate=RATE)
            variates[index] = moved(variates[index], change)
            updates.append(ClientUpdate(delta, client.examples, client.steps, variate=change))
        state, step = strategy.aggregate(state, updates, fleet)
        w = w + step["w"]
    return w


def distance(strategy: Strategy, clients: Sequence[Bowl], rounds: int = 300) -> float:
    return float(np.linalg.norm(federate(strategy, clients, rounds) - optimum(clients)))


def test_the_optimum_is_where_the_gradients_cancel() -> None:
    w = optimum(UNLIKE)
    total = sum(client.examples * client.steepness * (w - client.centre) for client in UNLIKE)
    np.testing.assert_allclose(total, 0, atol=1e-4)


def test_scaffold_reaches_the_optimum_where_averaging_drifts_past_it() -> None:
    assert distance(FedAvg(), UNLIKE) > 0.05
    assert distance(Scaffold(), UNLIKE) < 1e-3


def test_scaffold_reaches_it_at_half_the_pace_too() -> None:
    assert distance(Scaffold(server_learning_rate=0.5), UNLIKE) < 1e-3


def test_fednova_reaches_the_optimum_where_unequal_steps_pull_averaging_aside() -> None:
    """FedAvg weighs a client by how far it walks; at small rates that is by its steps, 12 to 1."""
    aside, straight = distance(FedAvg(), UNEQUAL), distance(FedNova(), UNEQUAL)
    assert aside > 0.5
    assert straight < aside / 3


def test_a_proximal_term_holds_drift_back() -> None:
    plain = distance(FedAvg(), UNLIKE)
    held = [distance(FedProx(mu=mu), UNLIKE) for mu in (1.0, 10.0)]
    assert plain > held[0] > held[1]


@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg(),
        FedProx(mu=0.1),
        FedNova(),
        FedAvgM(momentum=0.5),
        FedBuff(),
        Scaffold(),
        FedAdam(),
        FedYogi(),
        FedAdagrad(server_learning_rate=0.5),  # its steps shrink: three to go take longer at 0.01
    ],
    ids=lambda strategy: strategy.TAG,
)
def test_alike_clients_meet_at_the_optimum(strategy: Strategy) -> None:
    """Without heterogeneity all of them solve the problem; the adaptive ones come within their step."""
    alike = (bowl([1.0, -1.0], [1.0, 2.0], 10), bowl([1.0, -1.0], [1.0, 2.0], 30))
    near = 0.05 if isinstance(strategy, Adaptive) else 1e-3
    assert distance(strategy, alike, rounds=1500) < near
