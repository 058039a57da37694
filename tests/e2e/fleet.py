"""The fleet on this machine: made with the product's own commands, mosquitto with mutual TLS, two clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from broker_server.config import AT_ONCE, load_config
from broker_server.fleet import device_settings, fleet_broker, write_settings
from compression.records import to_plain
from provisioning.pki.signing import load_signing_key
from tests.e2e.machine import WORKSTATION
from tests.e2e.shares import Shares
from tests.e2e.shell import run
from tests.integration.fleet import RealFleet

PROJECT = Path(__file__).resolve().parents[2]
MODULES = {
    "bramble-server": "broker_server.cli",
    "bramble-provision": "provisioning.cli",
    "bramble-bench": "benchmarks.cli",
}
NAME = "e2e"
ROUNDS = 2
SIDE = 28  # pixels: the pictures' own size
PATIENCE_S = 3600.0  # an emulated board takes its time


def product(program: str, *arguments: str | int | Path, timeout_s: float = 1800.0) -> str:
    """Run one of the product's commands as a person would; what it printed."""
    print(f"    $ {program} {' '.join(map(str, arguments))}", flush=True)
    module = ("-m", MODULES[program])
    return run(sys.executable, *module, *arguments, env=environment(), timeout_s=timeout_s)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass
class Fleet(RealFleet):
    """The integration tests' fleet of processes, and the view of it that a person has."""

    port: int = 0  # of the broker; the enrolment service's is one above

    @property
    def settings(self) -> Path:
        return self.folder / "server.toml"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def start_watch(self) -> None:
        """``bramble-provision watch``, its lines in ``watch.log``."""
        with (self.folder / "watch.log").open("wb") as log:
            words = ["-m", "provisioning.cli", "watch", "--json", "--ca", str(self.pki)]
            self.processes["watch"] = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, env=environment()
            )

    def watched(self) -> str:
        """What the watch has printed: one JSON object a line, for each change."""
        return (self.folder / "watch.log").read_text(errors="replace")

    def stages(self, name: str) -> list[str]:
        """How the device came along, as the watch showed it."""
        lines = [json.loads(line) for line in self.watched().splitlines() if line.endswith("}")]
        return list(dict.fromkeys(line["stage"] for line in lines if line["name"] == name))

    def server_key(self) -> str:
        return load_signing_key(Path(load_config(self.settings).keys)).public_hex


def make_fleet(folder: Path, shares: Shares, port: int) -> Fleet:
    """``bramble-server init``, the settings that a person would edit, and two clients on this machine."""
    product(
        *("bramble-server", "init", folder, "--fleet", NAME, "--kind", shares.data.kind),
        *("--model", "small_cnn" if shares.data.kind == "image" else "small_mlp"),
        *("--rounds", ROUNDS, "--devices", len(shares.data.clients), "--broker", "mosquitto"),
        *("--port", port, "--name", WORKSTATION),
    )
    natives = tuple(client.name for client in shares.data.clients[1:])
    fleet = Fleet(folder, natives, None, port=port)
    _edit_settings(fleet, shares)
    _add_natives(fleet, shares)
    return fleet


def _edit_settings(fleet: Fleet, shares: Shares) -> None:
    settings: dict[str, Any] = tomllib.loads(fleet.settings.read_text())
    settings["model"] |= {"height": SIDE, "width": SIDE}
    settings["rounds"] |= {"wait_s": PATIENCE_S, "grace_s": PATIENCE_S, "quorum": len(shares.data.clients)}
    settings["release"] |= {"wait_s": PATIENCE_S}
    settings["rollout"] = to_plain(AT_ONCE)
    settings["data"] = {"evaluation": str(shares.data.test)}
    if shares.data.calibration:
        settings["data"]["calibration"] = str(shares.data.calibration)
    fleet.settings.write_text(tomli_w.dumps(settings))


def _add_natives(fleet: Fleet, shares: Shares) -> None:
    """Settings and certificates of all clients but the first, which is the Pi."""
    config, key = load_config(fleet.settings), fleet.server_key()
    with fleet_broker(config, fleet.folder) as broker:  # knows its address once it runs
        for client in shares.data.clients[1:]:
            settings = device_settings(config, broker, key, client.name, str(client.source))
            write_settings(fleet.folder / client.name / "edge.toml", settings)
