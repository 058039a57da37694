"""A whole fleet in one process: the real server and real agents in threads, over a real broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from broker_server import program
from broker_server.broker.factory import open_broker
from broker_server.config import (
    CodecConfig,
    DataConfig,
    ModelConfig,
    ReleaseConfig,
    RoundsConfig,
    ServerConfig,
)
from broker_server.fleet import create_fleet, device_settings
from broker_server.records import RoundRecord
from broker_server.report.observer import NullObserver, RoundFinished
from broker_server.server import Server
from broker_server.simulation.demo_data import prepare_demo_data
from edge_client.agent import Agent
from provisioning.pki.signing import load_signing_key
from tests.broker_server.mqtt_peer import poll

FLEET, DEVICES = "test", 3
ROUNDS: Mapping[str, Any] = {
    "rounds": 3, "epochs": 2, "learning_rate": 0.05, "quorum": 2, "wait_for": DEVICES,
    "wait_s": 30.0, "deadline_s": 30.0, "grace_s": 5.0,
}  # fmt: skip

RECEIPTS_S = 30.0
compiled_once = lru_cache(maxsize=8)(program.compile_program)  # the same settings give the same program


@dataclass
class Outcome:
    """What a run left behind."""

    server: Server
    folder: Path
    rounds: list[RoundRecord] = field(default_factory=list)

    def state_of(self, device: int) -> Path:
        return self.folder / f"device-{device}" / "state"

    @property
    def accuracy(self) -> float:
        evaluation = self.rounds[-1].evaluation
        assert evaluation is not None and evaluation.accuracy is not None
        return evaluation.accuracy


def settled(outcome: Outcome) -> bool:
    """Whether each device has the receipt of its last result: what it keeps from a round counts from then."""
    return not any(
        (outcome.state_of(device) / "pending/result.json").exists() for device in range(1, DEVICES + 1)
    )


class StopAfter(NullObserver):
    """Tells the server to stop when a round is over."""

    def __init__(self, round_number: int) -> None:
        self.round_number = round_number
        self.stop = threading.Event()

    def round_finished(self, event: RoundFinished, /) -> None:
        if event.figures.round == self.round_number:
            self.stop.set()


def run_fleet(
    folder: Path,
    patch: pytest.MonkeyPatch,
    *,
    rounds: Any = ROUNDS,
    restart_after: int | None = None,
    dataset: str = "wisconsin",
    until: Callable[[Outcome], bool] = lambda _: True,
    **settings: Any,
) -> Outcome:
    """Run a fleet of `DEVICES` to its end, with the Wisconsin table unless told otherwise.

    Args:
        rounds: settings of the rounds that differ from `ROUNDS`.
        dataset: as ``demo --dataset`` takes it.
        restart_after: a round after which the server ends and another one goes on.
        until: what is waited for before the agents are stopped: the server's last words may be on their way.
        settings: of `ServerConfig`.
    """
    patch.setattr("broker_server.run_program.compile_program", compiled_once)
    data = prepare_demo_data(dataset, devices=DEVICES, partition="iid", directory=folder, seed=3)
    config = ServerConfig(
        fleet=FLEET,
        state=str(folder / "state"),
        keys=str(folder / "keys"),
        pki=str(folder / "pki"),
        model=ModelConfig(name="small_mlp", kind="table", classes=data.classes, optimizer="sgd"),
        rounds=RoundsConfig(**{**ROUNDS, **rounds}),
        data=DataConfig(
            evaluation=str(data.test), calibration=str(data.calibration) if data.calibration else None
        ),
        release=ReleaseConfig(enabled=False),
        codec=settings.pop("codec", CodecConfig()),
    )
    config = replace(config, **settings)
    create_fleet(folder, config)
    key = load_signing_key(folder / "keys").public_hex
    with open_broker("embedded", folder / "broker", fleet=FLEET) as broker:
        edges = [
            device_settings(config, broker, key, client.name, str(client.source)) for client in data.clients
        ]
        agents = [Agent(replace(edge, state=str(folder / edge.name / "state"))) for edge in edges]
        with at_work(agents):
            if restart_after is not None:
                observer = StopAfter(restart_after)
                first = Server(config, broker, observer)
                first.run(observer.stop)
                first.stages.ledger.close()
            server = Server(config, broker, NullObserver())
            server.run(threading.Event())
            outcome = Outcome(server, folder, list(server.stages.ledger.rounds(RoundRecord).values()))
            poll(lambda: until(outcome), "end of what was waited for", deadline_s=RECEIPTS_S)
    return outcome


@contextmanager
def at_work(agents: list[Agent]) -> Iterator[None]:
    """Each agent in a thread of its own."""
    stop = threading.Event()
    with ExitStack() as stack:
        for agent in agents:
            thread = threading.Thread(target=agent.run, args=(stop,), daemon=True)
            thread.start()
            stack.callback(thread.join, 20.0)
        stack.callback(stop.set)
        yield
