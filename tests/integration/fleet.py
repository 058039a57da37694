"""A fleet of real processes for the tests: a broker, a server, clients, each started and killed by handle."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from broker_server.broker.base import Broker
from broker_server.broker.factory import open_broker
from broker_server.config import (
    AT_ONCE,
    BrokerConfig,
    CodecConfig,
    DataConfig,
    EnrolmentConfig,
    ModelConfig,
    ReleaseConfig,
    RoundsConfig,
    ServerConfig,
    load_config,
)
from broker_server.fleet import create_fleet, device_settings, fleet_broker, write_settings
from broker_server.simulation.demo_data import prepare_demo_data
from edge_client.wire.topics import AGGREGATOR
from provisioning.pki.signing import load_signing_key

ROOT = Path(__file__).resolve().parents[2]
FLEET = "test"
ROUNDS = 4
EPOCHS = 150  # a round takes a second or two: long enough to kill something in the middle of it
FINISH_S = 120.0
SETTINGS: dict[str, Any] = {
    "rounds": ROUNDS,
    "epochs": EPOCHS,
    "learning_rate": 3e-4,
    "quorum": 2,
    "wait_for": 3,
    "wait_s": 60.0,
    "deadline_s": 60.0,
    "grace_s": 8.0,
}


@dataclass
class RealFleet:
    """Clients with the Wisconsin table, one server, one broker of its own."""

    folder: Path
    names: tuple[str, ...]
    outer_broker: Broker | None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_server(self) -> None:
        self._start("server", ["broker_server.cli", "run", "--config", str(self.folder / "server.toml")])

    def start_client(self, name: str) -> None:
        settings = self.folder / name / "edge.toml"
        self._start(name, ["edge_client.cli", "run", "--config", str(settings)])

    def start_all(self) -> None:
        self.start_server()
        for name in self.names:
            self.start_client(name)

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye, nothing flushed."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def kill_broker(self) -> None:
        """SIGKILL; whoever supervises it starts it again."""
        parent = psutil.Process(self.processes["server"].pid if self.outer_broker is None else os.getpid())
        (broker,) = [
            child
            for child in parent.children(recursive=True)
            if child.name() == "mosquitto" or "broker_server.broker.amqtt_child" in child.cmdline()
        ]
        broker.kill()

    def _start(self, name: str, arguments: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_USE_LEGACY_KERAS": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    # ---- looking at it ----

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger while the server writes it; nothing before there is one."""
        path = self.folder / "state" / "ledger.sqlite"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            try:
                return db.execute(sql, values).fetchall()
            except sqlite3.OperationalError:  # the tables are being made
                return []

    def results_of_round(self, number: int) -> list[str]:
        """Devices whose result of a training round is in the ledger."""
        rows = self.query(
            "SELECT device FROM results JOIN tasks ON results.task = tasks.number "
            "WHERE json_extract(tasks.task, '$.round') = ? AND json_extract(tasks.task, '$.kind') = 'train'",
            number,
        )
        return [device for (device,) in rows]

    def round_has_begun(self, number: int) -> bool:
        return bool(
            self.query(
                "SELECT 1 FROM tasks WHERE json_extract(task, '$.round') = ? "
                "AND json_extract(task, '$.kind') = 'train'",
                number,
            )
        )

    def finished(self) -> bool:
        server = self.processes["server"]
        code = server.poll()
        assert code in (None, 0), (self.folder / "server.log").read_text()[-4000:]
        return code == 0

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text())

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = FINISH_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {path.name}\n{path.read_text()[-2500:]}" for path in self.folder.glob("*.log")
                )
                raise AssertionError(f"{what}: not within {timeout_s:g} s\n{logs}")
            time.sleep(0.02)  # between two looks


F = TypeVar("F", bound=RealFleet)


@contextmanager
def real_fleet(
    folder: Path,
    kind: str,
    *,
    devices: int = 3,
    make: Callable[..., F] = RealFleet,  # type: ignore[assignment]
    changes: Mapping[str, Any] | None = None,
    **rounds: Any,
) -> Iterator[F]:
    """A fleet ready to start.

    Args:
        folder: for everything.
        kind: "embedded" or "mosquitto", which the server starts and which die with it, or "external", a
            mosquitto that outlives it.
        devices: how many clients.
        make: the class of the fleet.
        changes: other settings of `ServerConfig`.
        rounds: settings of the rounds that differ from `SETTINGS`.
    """
    data = prepare_demo_data("wisconsin", devices=devices, partition="iid", directory=folder, seed=3)
    with contextlib.ExitStack() as stack:
        outer: Broker | None = None
        wanted = BrokerConfig(kind=kind, port=free_port())
        if kind == "external":
            outer = stack.enter_context(open_broker("mosquitto", folder / "outer", fleet=FLEET, plain=True))
            address = outer.server_address()
            wanted = BrokerConfig(kind=f"mqtt://{AGGREGATOR}@{address.host}:{address.port}")
        config = ServerConfig(
            fleet=FLEET,
            broker=wanted,
            enrolment=EnrolmentConfig(port=0),
            model=ModelConfig(name="small_mlp", kind="table", classes=data.classes),
            rounds=RoundsConfig(**(SETTINGS | rounds)),
            codec=CodecConfig(up="safe", down="safe"),
            data=DataConfig(evaluation=str(data.test)),
            release=ReleaseConfig(wait_s=30.0),
            rollout=AT_ONCE,
        )
        config = replace(config, **(changes or {}))
        settings = create_fleet(folder, config)
        key = load_signing_key(folder / config.keys).public_hex
        with contextlib.ExitStack() as briefly:  # addresses and certificates; the server starts its own
            broker = outer or briefly.enter_context(fleet_broker(load_config(settings), folder))
            for client in data.clients:
                edge = device_settings(config, broker, key, client.name, str(client.source))
                write_settings(folder / client.name / "edge.toml", edge)
        fleet = make(folder, tuple(client.name for client in data.clients), outer)
        stack.callback(fleet.stop)
        yield fleet


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
