"""A first model that is bad on one of its devices: nobody answers with it in the end, and all say why."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker_server.config import (
    ModelConfig,
    ReleaseConfig,
    RolloutConfig,
    RoundsConfig,
    ServerConfig,
    load_config,
)
from broker_server.fleet import create_fleet, device_settings, fleet_broker, ledger_path
from broker_server.report.observer import NullObserver
from broker_server.server import Server
from broker_server.store.ledger import Ledger
from edge_client.agent import Agent
from edge_client.inference.installed import SlotError
from edge_client.inference.live import LiveModel
from edge_client.inference.slots import FOLDER
from edge_client.inference.trial import Trial
from edge_client.wire.rollout import GateRule
from provisioning.pki.signing import load_signing_key

ROWS = {"pi-1": 40, "pi-2": 40, "pi-3": 8}  # of which a fifth is held out: too few on the last for its gate
pytestmark = pytest.mark.timeout(240)


def settings() -> ServerConfig:
    return ServerConfig(
        fleet="ward",
        model=ModelConfig(name="small_mlp", kind="table", classes=("low", "high")),
        rounds=RoundsConfig(rounds=1, quorum=3, wait_for=3, wait_s=60.0, grace_s=20.0),
        release=ReleaseConfig(wait_s=60.0, recipe="float32", gate=GateRule(min_examples=4)),
        rollout=RolloutConfig(canary="100%", stages=(), observe_s=0.0, max_failed=0.0),
    )


def table(path: Path, rows: int) -> None:
    values = np.random.default_rng(rows).uniform(-1.0, 1.0, rows)
    lines = [f"{value:.4f},{-value:.4f},{'high' if value > 0 else 'low'}" for value in values]
    path.write_text("\n".join(["a,b,label", *lines]) + "\n")


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    """After a run in which all three devices answered the rollback; their states are in folders by name."""
    config = load_config(create_fleet(tmp_path, settings()))
    config = replace(config, broker=replace(config.broker, kind="embedded", port=0))
    monkeypatch.setattr("edge_client.inference.gate.try_model", lambda *_, **__: Trial(True, ""))
    key, stop = load_signing_key(Path(config.keys)).public_hex, threading.Event()
    with fleet_broker(config, tmp_path) as broker:
        threads = []
        for name, rows in ROWS.items():
            table(tmp_path / f"{name}.csv", rows)
            edge = device_settings(config, broker, key, name, f"table:{tmp_path / name}.csv")
            agent = Agent(replace(edge, state=str(tmp_path / name)))
            threads.append(threading.Thread(target=agent.run, args=(stop,)))
            threads[-1].start()
        try:
            server = Server(config, broker, NullObserver())
            with contextlib.closing(server.stages.ledger):
                server.run(threading.Event())
            yield config
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)


def test_who_took_it_answers_no_more_and_says_why(fleet: ServerConfig, tmp_path: Path) -> None:
    with contextlib.closing(Ledger(ledger_path(fleet), writer=False)) as ledger:
        reports = ledger.release_reports(1)
        held = {name: hello.model_version for name, hello in ledger.devices().items()}
        incident = ledger.incidents()[-1]
    assert {name: report.outcome for name, report in reports.items()} == dict.fromkeys(ROWS, "rolled-back")
    assert held == dict.fromkeys(ROWS, 0)
    assert incident.who == "model 1" and "1 of 3 devices failed" in incident.what
    for name in ("pi-1", "pi-2"):
        with pytest.raises(SlotError, match="no model is active: model 1 was taken back"):
            LiveModel(tmp_path / name / FOLDER)
    with pytest.raises(SlotError, match="no released model yet"):
        LiveModel(tmp_path / "pi-3" / FOLDER)
