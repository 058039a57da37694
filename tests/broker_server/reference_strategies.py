"""The papers' server steps written out for vectors, loop by loop: slow, and readable beside the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, sqrt

Vector = list[float]


@dataclass
class Client:
    """One client's report: delta is y - x."""

    delta: Vector
    n: int
    tau: int = 1
    staleness: int = 0
    change: Vector | None = None  # of its control variate


def fedavg(clients: Sequence[Client]) -> Vector:
    """McMahan et al., Algorithm 1: sum of n_k / n * delta_k."""
    n = sum(client.n for client in clients)
    return [sum(c.n / n * c.delta[j] for c in clients) for j in range(len(clients[0].delta))]


def fednova(clients: Sequence[Client]) -> Vector:
    """Wang et al., equation 7, plain SGD: tau_eff * sum of p_i * d_i, tau_eff = sum of p_i * tau_i."""
    n = sum(client.n for client in clients)
    tau_eff = sum(c.n / n * c.tau for c in clients)
    size = len(clients[0].delta)
    return [tau_eff * sum(c.n / n * c.delta[j] / c.tau for c in clients) for j in range(size)]


def scaffold(clients: Sequence[Client], control: Vector, everyone: int) -> tuple[Vector, Vector]:
    """Karimireddy et al., lines 16 and 17, with examples for weights: x moves by the mean, c by the share."""
    moved = [sum(c.n / everyone * (c.change or [])[j] for c in clients) for j in range(len(control))]
    return fedavg(clients), [c + m for c, m in zip(control, moved, strict=True)]


def fedbuff(clients: Sequence[Client], eta: float) -> Vector:
    """Nguyen et al., Algorithm 1: eta / K * sum of s(staleness) * delta, with examples for weights."""
    n = sum(client.n for client in clients)
    size = len(clients[0].delta)
    return [eta * sum(c.n / n * c.delta[j] / sqrt(1 + c.staleness) for c in clients) for j in range(size)]


class FedOpt:
    """Reddi et al., Algorithm 2, and Hsu et al. for momentum."""

    def __init__(self, kind: str, size: int, eta: float, beta_1: float, beta_2: float, tau: float) -> None:
        self.kind, self.eta, self.beta_1, self.beta_2, self.tau = kind, eta, beta_1, beta_2, tau
        self.m = [0.0] * size
        self.v = [tau**2] * size

    def step(self, clients: Sequence[Client]) -> Vector:
        delta = fedavg(clients)
        moved = []
        for j, d in enumerate(delta):
            self.m[j] = self.beta_1 * self.m[j] + (1 - self.beta_1) * d
            if self.kind == "adagrad":
                self.v[j] += d * d
            elif self.kind == "adam":
                self.v[j] = self.beta_2 * self.v[j] + (1 - self.beta_2) * d * d
            else:
                sign = 0.0 if self.v[j] == d * d else copysign(1.0, self.v[j] - d * d)
                self.v[j] -= (1 - self.beta_2) * d * d * sign
            moved.append(self.eta * self.m[j] / (sqrt(self.v[j]) + self.tau))
        return moved
