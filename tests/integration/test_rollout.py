"""Twenty devices, a model that is bad on a third of them: it stops at the canaries and comes back by itself.

Real: broker, server, ledger, signatures, transfers, the agents' whole code, training, gates, slots on disk.
Virtual: the devices are threads of this process, each with an agent, a state directory and data of its own;
and a model's first run is not in a child process (`tests/edge_client/test_inference_gate.py` has that), since
forty starts of an interpreter would be most of the test.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.broker.base import Broker
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
from broker_server.rollout.machine import RolloutState
from broker_server.rollout.orders import Order, leave_order
from broker_server.rollout.registry import MODELS
from broker_server.rollout.view import look_at_models
from broker_server.server import Server
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.agent import Agent
from edge_client.config import EdgeConfig
from edge_client.inference.slots import FOLDER, ModelSlots
from edge_client.inference.trial import Trial
from edge_client.inference.usage import UsageLog
from edge_client.session.blobs import BlobStore
from provisioning.pki.signing import load_signing_key

DEVICES = tuple(f"pi-{number:02}" for number in range(20))
OTHERS = frozenset(DEVICES[::3])  # a third: what they are to tell is in column b, not in column a
CANARIES = 6


@dataclass
class Fleet:
    """A fleet that has trained, and runs model 1 on every device."""

    config: ServerConfig
    broker: Broker
    folder: Path

    def slots(self, device: str) -> ModelSlots:
        return ModelSlots(self.folder / device / "state" / FOLDER)

    def versions(self) -> dict[str, int]:
        return {device: self.slots(device).active_version() for device in DEVICES}

    def lead(self, order: Order) -> tuple[str | None, RolloutState]:
        """What `bramble-server models` does when no server runs; the answer, and where the rollout ended."""
        number = leave_order(ledger_path(self.config), order)
        server = Server(self.config, self.broker, NullObserver())
        with contextlib.closing(server.stages.ledger):
            server.roll_out(threading.Event())
            return server.answer_to(number), self.rollouts()[-1]

    def rollouts(self) -> list[RolloutState]:
        ledger = Ledger(ledger_path(self.config), writer=False)
        with contextlib.closing(ledger):
            return ModelStore(ledger.connection).rollouts(RolloutState)

    def push(self, tflite: bytes) -> Order:
        model = BlobStore(Path(self.config.state) / MODELS).put(tflite)
        return Order(kind="push", model=model, origin="push of test.tflite", recipe="float32")


def table(path: Path, device: str) -> None:
    """Forty rows; the label is the sign of one column, and the other is noise."""
    rng = np.random.default_rng(DEVICES.index(device))
    telling = rng.choice([-1.0, 1.0], 40) * rng.uniform(0.8, 1.2, 40)
    noise = rng.uniform(-0.1, 0.1, 40)
    a, b = (noise, telling) if device in OTHERS else (telling, noise)
    rows = [f"{x:.4f},{y:.4f},{'high' if t > 0 else 'low'}" for x, y, t in zip(a, b, telling, strict=True)]
    path.write_text("\n".join(["a,b,label", *rows]) + "\n")


def linear_model(a: float, b: float) -> bytes:
    """A TFLite file that says "high" where a times the first column and b times the second is positive."""
    import tf_keras
    from tf_keras import layers

    from compression.models.export import export_model

    model: Any = tf_keras.Sequential([layers.Input((2,)), layers.Dense(1, name="dense")])
    model.get_layer("dense").set_weights([np.array([[a], [b]], np.float32), np.zeros(1, np.float32)])
    return export_model(model, classes=2, recipe="float32").tflite


def settings() -> ServerConfig:
    return ServerConfig(
        fleet="ward",
        model=ModelConfig(name="small_mlp", kind="table", classes=("low", "high")),
        rounds=RoundsConfig(
            rounds=6, epochs=10, learning_rate=1e-2, quorum=20, wait_for=20, wait_s=60.0, grace_s=20.0
        ),
        release=ReleaseConfig(wait_s=60.0, recipe="float32"),
        rollout=RolloutConfig(canary=str(CANARIES), stages=(), observe_s=0.5),
    )


def edge(fleet: ServerConfig, broker: Broker, folder: Path, name: str) -> EdgeConfig:
    (folder / name).mkdir()
    table(folder / name / "rows.csv", name)
    key = load_signing_key(Path(fleet.keys)).public_hex
    config = device_settings(fleet, broker, key, name, f"table:{folder / name / 'rows.csv'}")
    return replace(config, state=str(folder / name / "state"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    config = load_config(create_fleet(folder, settings()))
    config = replace(config, broker=replace(config.broker, kind="embedded", port=0))
    stop = threading.Event()
    with pytest.MonkeyPatch.context() as patch, fleet_broker(config, folder) as broker:
        patch.setattr("edge_client.inference.gate.try_model", lambda *_, **__: Trial(True, ""))
        agents = [Agent(edge(config, broker, folder, name)) for name in DEVICES]
        threads = [threading.Thread(target=agent.run, args=(stop,)) for agent in agents]
        for thread in threads:
            thread.start()
        try:
            server = Server(config, broker, NullObserver())
            with contextlib.closing(server.stages.ledger):
                server.run(threading.Event())
            yield Fleet(config, broker, folder)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)


def test_a_good_model_reaches_everyone_by_way_of_the_canaries(fleet: Fleet) -> None:
    (rollout,) = fleet.rollouts()
    assert rollout.phase == "complete"
    assert [len(wave) for wave in rollout.waves] == [CANARIES, len(DEVICES) - CANARIES]
    assert fleet.versions() == dict.fromkeys(DEVICES, 1)
    manifest = fleet.slots("pi-00").active()
    assert manifest is not None and manifest.answering.likeness is not None  # said by the devices, signed


def test_a_model_that_is_bad_on_a_third_stops_at_the_canaries_and_comes_back(fleet: Fleet) -> None:
    answer, rollout = fleet.lead(fleet.push(linear_model(5.0, 0.0)))
    assert answer == "push of test.tflite is model 2, and its rollout has begun"
    canaries = frozenset(rollout.offered)
    assert (rollout.phase, rollout.wave, len(canaries)) == ("rolled-back", 0, CANARIES)
    assert 0 < len(canaries & OTHERS) < CANARIES  # the draw has both kinds in it
    assert frozenset(rollout.failed) <= canaries & OTHERS
    assert "failed at the canaries" in rollout.reason
    assert all(re.match(r"accuracy 0\.\d+, the .+ ha(s|ve) [01]\.", why) for why in rollout.failed.values())
    assert fleet.versions() == dict.fromkeys(DEVICES, 1)
    with look_at_models(fleet.config) as view:
        outcomes = {row["device"]: row["outcome"] for row in view.details(2)["devices"]}
        assert view.current == 1
    assert frozenset(name for name, outcome in outcomes.items() if outcome) == canaries
    assert all(outcomes[name] == "rolled-back" for name in canaries - OTHERS)


def test_a_model_that_fails_in_use_comes_back_after_the_switch(fleet: Fleet) -> None:
    for device in DEVICES:  # the next version is 3; nothing reads these counts before it answers
        with UsageLog(fleet.folder / device / "state" / FOLDER, 3) as usage:
            usage.add(answers=20, errors=20 if device in OTHERS else 0)
    _, rollout = fleet.lead(fleet.push(linear_model(5.0, 5.0)))
    assert (rollout.phase, rollout.wave) == ("rolled-back", 0)
    assert "20 of 40 answers failed" in rollout.reason
    assert fleet.versions() == dict.fromkeys(DEVICES, 1)


def test_a_device_is_pinned_and_let_go(fleet: Fleet) -> None:
    answer, _ = fleet.lead(Order(kind="pin", device="pi-07", version=3))
    assert answer == "pi-07 is pinned at model 3"
    assert fleet.versions() == dict.fromkeys(DEVICES, 1) | {"pi-07": 3}
    with look_at_models(fleet.config) as view:
        assert [row["device"] for row in view.details(1)["devices"] if row["pinned"]] == ["pi-07"]
    answer, _ = fleet.lead(Order(kind="unpin", device="pi-07"))
    assert answer == "pi-07 is free again"
    assert fleet.versions() == dict.fromkeys(DEVICES, 1)


def test_orders_that_cannot_be_carried_out_say_why(fleet: Fleet) -> None:
    for order, why in (
        (Order(kind="promote"), "refused: no rollout is at work: name the version to promote"),
        (Order(kind="pause"), "refused: no rollout is at work"),
        (Order(kind="rollback"), "refused: there is no model before 1 to go back to"),
        (Order(kind="pin", device="pi-99", version=1), "refused: there is no device 'pi-99' in this fleet"),
        (fleet.push(b"no model"), "refused: push of test.tflite is no model for this fleet"),
    ):
        answer, _ = fleet.lead(order)
        assert answer is not None and answer.startswith(why)


def test_one_that_fails_in_use_goes_back_alone_and_the_others_keep_the_model(fleet: Fleet) -> None:
    bad = DEVICES[7]
    with UsageLog(fleet.folder / bad / "state" / FOLDER, 4) as usage:
        usage.add(answers=20, errors=20)
    plan = RolloutConfig(canary="100%", stages=(), observe_s=1.0, max_failed=0.1)
    patient = replace(fleet, config=replace(fleet.config, rollout=plan))
    _, rollout = patient.lead(fleet.push(linear_model(5.0, 5.0)))
    assert (rollout.phase, rollout.sent_back) == ("complete", (bad,))
    assert fleet.versions() == dict.fromkeys(DEVICES, 4) | {bad: 1}
    with look_at_models(fleet.config) as view:
        (row,) = (row for row in view.details(4)["devices"] if row["device"] == bad)
    assert (row["has"], row["outcome"]) == (1, "refused") and "20 of 40 answers failed" in row["reason"]
