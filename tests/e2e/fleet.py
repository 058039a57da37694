"""The fleet on this machine: made with the product's own commands, mosquitto with mutual TLS, two clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from broker_server.config import load_config
from broker_server.fleet import device_settings, fleet_broker, write_settings
from provisioning.pki.signing import load_signing_key
from tests.e2e.machine import WORKSTATION
from tests.e2e.shares import Shares
from tests.e2e.shell import RigError, run

PROJECT = Path(__file__).resolve().parents[2]
NAME = "e2e"
ROUNDS = 2
SIDE = 28  # pixels: the pictures' own size


@dataclass
class Fleet:
    """A fleet's directory and its processes."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Path:
        return self.folder / "server.toml"

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def spawn(self, name: str, module: str, *arguments: str | int | Path) -> None:
        """Start one of the product's programs; its output goes to ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            words = [sys.executable, "-m", module, *map(str, arguments)]
            self.processes[name] = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment()
            )

    def require_alive(self) -> None:
        """Raise `RigError` when a process has ended with an error."""
        for name, process in self.processes.items():
            if process.poll():
                raise RigError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")

    def finished(self) -> bool:
        """Whether the server has run its rounds to the end."""
        self.require_alive()
        return self.processes["server"].poll() == 0

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "report.json").read_text()))

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def product(program: str, *arguments: str | int | Path, timeout_s: float = 1800.0) -> str:
    """Run one of the product's commands as a person would; what it printed."""
    module = {"bramble-server": "broker_server.cli", "bramble-provision": "provisioning.cli"}[program]
    shown = " ".join(map(str, arguments))
    print(f"    $ {program} {shown}", flush=True)
    return run(sys.executable, "-m", module, *arguments, env=environment(), timeout_s=timeout_s)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def make_fleet(folder: Path, shares: Shares, port: int) -> Fleet:
    """``bramble-server init``, then the settings that a person would edit."""
    product(
        *("bramble-server", "init", folder, "--fleet", NAME, "--kind", shares.data.kind),
        *("--model", "small_cnn" if shares.data.kind == "image" else "small_mlp"),
        *("--rounds", ROUNDS, "--devices", len(shares.data.clients), "--broker", "mosquitto"),
        *("--port", port, "--name", WORKSTATION),
    )
    fleet = Fleet(folder)
    settings = tomllib.loads(fleet.settings.read_text())
    settings["model"] |= {"height": SIDE, "width": SIDE}
    settings["rounds"] |= {"wait_s": 3600.0, "quorum": len(shares.data.clients)}
    settings["data"] = {"evaluation": str(shares.data.test)}
    if shares.data.calibration:
        settings["data"]["calibration"] = str(shares.data.calibration)
    fleet.settings.write_text(tomli_w.dumps(settings))
    return fleet


def add_native_clients(fleet: Fleet, shares: Shares) -> list[str]:
    """Settings and certificates of all clients but the first, which is the Pi."""
    config = load_config(fleet.settings)
    key = load_signing_key(Path(config.keys)).public_hex
    broker = fleet_broker(config, fleet.folder)
    names = []
    for client in shares.data.clients[1:]:
        settings = device_settings(config, broker, key, client.name, str(client.source))
        write_settings(fleet.folder / client.name / "edge.toml", settings)
        names.append(client.name)
    return names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
