"""A transfer model through a whole run: the extractor goes out, the head is trained, pictures get answers."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from broker_server.broker.factory import open_broker
from broker_server.config import AT_ONCE, DataConfig, ReleaseConfig, RoundsConfig, ServerConfig
from broker_server.fleet import create_fleet, device_settings, write_settings
from broker_server.frozen import CACHE
from broker_server.report.observer import NullObserver
from broker_server.server import Server
from broker_server.simulation.demo_data import prepare_demo_data
from compression.records import loads
from compression.spec import FeatureInput
from edge_client.data import preprocess
from edge_client.extractors import extractor_file
from edge_client.inference.answering import Answerer
from edge_client.inference.slots import FOLDER, ModelSlots
from edge_client.session.blobs import BlobStore
from edge_client.training.feature_cache import FeatureCache
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.rounds import Task
from provisioning.pki.signing import load_signing_key
from tests.broker_server.tiny_backbone import FEATURES, HEAD, MODEL, use_tiny_backbone, write_pictures
from tests.integration.faults import Faults
from tests.integration.in_process import DEVICES, FLEET, ROUNDS, run_fleet

ROOT = Path(__file__).resolve().parents[2]
RELEASED = {"release": ReleaseConfig(wait_s=30.0), "rollout": AT_ONCE}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_from_the_first_round_to_answers_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_backbone(monkeypatch)
    pictures = write_pictures(tmp_path / "pictures.npz", 240)
    outcome = run_fleet(
        tmp_path,
        monkeypatch,
        dataset=f"npz:{pictures}",
        rounds={"rounds": 2},
        restart_after=1,
        model=MODEL,
        **RELEASED,
    )
    stages = outcome.server.stages
    steps = stages.bundle.spec.input
    assert isinstance(steps, FeatureInput) and steps.features == FEATURES
    assert stages.parameters == HEAD and outcome.accuracy > 0.9
    tasks = [loads(Task, text.encode(), max_bytes=1 << 20) for text in every_task(outcome.folder)]
    assert {task.extractor for task in tasks if task.bundle} == {stages.frozen.manifest}
    assert (outcome.folder / "state" / CACHE).is_dir()

    for number in range(1, DEVICES + 1):
        state = outcome.state_of(number)
        blobs = BlobStore(state / "blobs")
        assert stages.frozen.manifest is not None
        assert extractor_file(blobs, stages.frozen.manifest).digest == steps.extractor
        assert blobs.has(extractor_file(blobs, stages.frozen.manifest))  # tasks go on naming it
        assert len(FeatureCache(state / "cache", steps)) > 20
        model = ModelSlots(state / FOLDER).active()
        assert model is not None and model.spec.input == steps.picture  # pictures in

        answerer = Answerer(model)
        with np.load(pictures) as known:
            shown = [answerer.answer(preprocess(picture, steps.picture)) for picture in known["images"][:10]]
        right = [int(answer.probabilities.argmax()) == label % 2 for label, answer in enumerate(shown)]
        assert sum(right) >= 8


def every_task(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "state" / "ledger.sqlite") as ledger:
        return [text for (text,) in ledger.execute("SELECT task FROM tasks")]


@contextmanager
def device_process(settings: Path, faults: Faults) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.faults", faults.text(),
         "edge_client.cli", "run", "--config", str(settings)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_real_processes_of_which_one_is_killed_in_the_middle_of_its_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_backbone(monkeypatch)
    pictures = write_pictures(tmp_path / "pictures.npz", 480)
    data = prepare_demo_data(f"npz:{pictures}", devices=2, partition="iid", directory=tmp_path, seed=3)
    config = ServerConfig(
        fleet=FLEET,
        state=str(tmp_path / "state"),
        keys=str(tmp_path / "keys"),
        pki=str(tmp_path / "pki"),
        model=MODEL,
        rounds=RoundsConfig(**{**ROUNDS, "rounds": 2, "wait_for": 2, "deadline_s": 120.0, "grace_s": 60.0}),
        data=DataConfig(evaluation=str(data.test)),  # no calibration examples: int8 weights alone
        release=ReleaseConfig(enabled=False),
    )
    create_fleet(tmp_path, config)
    key = load_signing_key(tmp_path / "keys").public_hex
    with open_broker("embedded", tmp_path / "broker", fleet=FLEET) as broker:
        files = []
        for client in data.clients:
            edge = device_settings(config, broker, key, client.name, str(client.source))
            files.append(tmp_path / client.name / "edge.toml")
            write_settings(files[-1], edge)
        server = Server(config, broker, NullObserver())
        kept = threading.Event()

        def kill_and_start_again(stop: threading.Event) -> None:
            with device_process(files[0], Faults(at="some-features-kept")) as first:
                assert first.wait(120) == -signal.SIGKILL
            if features_of(tmp_path / data.clients[0].name):
                kept.set()
            with device_process(files[0], Faults()):
                stop.wait(120)

        done = threading.Event()
        keeper = threading.Thread(target=kill_and_start_again, args=(done,), daemon=True)
        with device_process(files[1], Faults()):
            keeper.start()
            server.run(threading.Event())
            done.set()
            keeper.join(30)
    assert server.finished and kept.is_set()
    records = server.stages.ledger.results(1)
    assert set(records) == {client.name for client in data.clients}
    evaluation = records[data.clients[0].name].evaluation
    assert isinstance(evaluation, EvaluationSums) and evaluation.examples > 20


def features_of(device: Path) -> list[Path]:
    return [file for file in (device / "state" / "cache").glob("features-*.bin") if file.stat().st_size]
