"""Strategies: what devices do differently, and how the server makes one step of their updates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, get_args

from broker_server.strategies.base import ClientUpdate, Fleet, State, Strategy
from broker_server.strategies.fedadagrad import FedAdagrad
from broker_server.strategies.fedadam import FedAdam
from broker_server.strategies.fedavg import FedAvg
from broker_server.strategies.fedavgm import FedAvgM
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fednova import FedNova
from broker_server.strategies.fedper import FedPer
from broker_server.strategies.fedprox import FedProx
from broker_server.strategies.fedyogi import FedYogi
from broker_server.strategies.scaffold import Scaffold
from compression.records import RecordError

AnyStrategy: TypeAlias = (
    FedAvg | FedProx | Scaffold | FedNova | FedAvgM | FedAdam | FedYogi | FedAdagrad | FedBuff | FedPer
)
STRATEGIES: Mapping[str, type[AnyStrategy]] = MappingProxyType(
    {cls.TAG: cls for cls in get_args(AnyStrategy)}
)

__all__ = ["STRATEGIES", "AnyStrategy", "ClientUpdate", "Fleet", "State", "Strategy", "find_strategy"]


def find_strategy(name: str) -> AnyStrategy:
    """A strategy with its parameters as they come; raise `RecordError` for an unknown name."""
    if name not in STRATEGIES:
        raise RecordError(f"unknown strategy {name!r}; known are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()
