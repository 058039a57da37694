"""A device's work on a transfer model: pictures through a real extractor, a head trained on what came out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.transfer import TransferProgram, compile_transfer
from compression.spec import ImageInput, weights_digest
from compression.updates import decode_update, pack_model
from edge_client import work
from edge_client.by_hand import (
    BUNDLE_FILE,
    EXTRACTOR_FILE,
    Site,
    extractor_beside,
    read_bundle_file,
    train_once,
)
from edge_client.config import DataConfig, EdgeConfig
from edge_client.data.source import DataSource
from edge_client.extractors import put_extractor
from edge_client.inference.likeness import feature_count
from edge_client.session.address import BrokerAddress
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.training import features
from edge_client.training.feature_cache import FeatureCache
from edge_client.wire.rounds import Task, TrainingPlan
from edge_client.wire.weights import WeightsRef
from edge_client.work import TaskCancelledError, Workshop
from tests.broker_server.tiny_backbone import FEATURES, HEAD, MODEL, use_tiny_backbone, write_pictures

PICTURE = ImageInput(16, 16)
PLAN = TrainingPlan(epochs=4, learning_rate=0.01, codec="lossless", seed=5)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def program() -> Iterator[TransferProgram]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield compile_transfer(MODEL, PICTURE, ("0", "1"))


@pytest.fixture
def device(tmp_path: Path, program: TransferProgram) -> Callable[[], tuple[Workshop, Task]]:
    """Makes a workshop with 100 pictures, and a training task for it."""
    source = write_pictures(tmp_path / "pictures.npz", 100)

    def make() -> tuple[Workshop, Task]:
        folder = tmp_path / "state"
        blobs = BlobStore(folder / "blobs")
        weights = program.weights
        full = blobs.put(pack_model(weights))
        config = EdgeConfig(
            name="pi-1", fleet="test", server_key="0" * 64, state=str(folder),
            broker=BrokerAddress("localhost", 1883), data=DataConfig(source=f"npz:{source}"),
        )  # fmt: skip
        task = Task(
            fleet="test", run="0" * 16, number=9, kind="train", round=2, cohort=("pi-1",),
            bundle=blobs.put(program.bundle.to_bytes()), extractor=put_extractor(blobs, program.extractor),
            weights=WeightsRef(version=0, digest=weights_digest(weights), full=full),
            training=PLAN,
        )  # fmt: skip
        return Workshop(config, DeviceState(folder), blobs), task

    return make


def test_only_the_head_is_trained_and_sent(device: Any, program: TransferProgram) -> None:
    workshop, task = device()
    outcome = workshop.perform(task, lambda: False)
    report, sums = outcome.result.training, outcome.result.evaluation
    assert report is not None and (report.examples, report.steps) == (80, 4 * 10)
    assert sums is not None and sums.examples == 20
    update = decode_update(outcome.payload, program.bundle.spec.tensors, model_digest=program.bundle.digest)
    assert sum(array.size for array in update.delta.values()) == HEAD
    evaluated = workshop.perform(replace(task, kind="evaluate", training=None), lambda: False)
    told = evaluated.result.calibration
    assert told is not None and told.examples == 20 and told.seen == 80
    assert len(told.features) == feature_count(PICTURE) != FEATURES  # what a picture looks like
    assert workshop.load_data(program.bundle.spec).inputs.shape == (100, 16, 16, 1)


def test_extractor_and_trainer_are_never_in_memory_together(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []

    class Seen(features.FeatureExtractor):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            alive.append(weakref.ref(self))

    def trainer(*arguments: Any, **named: Any) -> Any:
        assert [ref() for ref in alive] == [None]
        return inner(*arguments, **named)

    inner = work.LiteRTTrainer
    monkeypatch.setattr(features, "FeatureExtractor", Seen)
    monkeypatch.setattr(work, "LiteRTTrainer", trainer)
    workshop, task = device()
    assert workshop.perform(task, lambda: False).result.training is not None
    assert len(alive) == 1


def test_a_newer_task_ends_an_extraction_and_what_was_made_is_kept(
    device: Any, program: TransferProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "KEEP_EVERY", 10)
    workshop, task = device()
    asked = iter(range(1000))
    with pytest.raises(TaskCancelledError):
        workshop.perform(task, lambda: next(asked) > 55)
    kept = len(FeatureCache(tmp_path / "state" / "cache", program.bundle.spec.input))
    assert 50 <= kept < 60
    runs = 0

    class Counted(features.FeatureExtractor):
        def __call__(self, picture: Any) -> Any:
            nonlocal runs
            runs += 1
            return super().__call__(picture)

    monkeypatch.setattr(features, "FeatureExtractor", Counted)
    workshop.perform(task, lambda: False)
    assert runs == 100 - kept


def test_a_device_whose_pictures_are_others_now_lets_go_of_the_old_ones_features(
    device: Any, program: TransferProgram, tmp_path: Path
) -> None:
    workshop, task = device()
    workshop.perform(task, lambda: False)
    workshop._state.close()  # the agent is started again
    after, task = device()
    write_pictures(tmp_path / "pictures.npz", 40)
    after.perform(task, lambda: False)
    assert len(FeatureCache(tmp_path / "state" / "cache", program.bundle.spec.input)) == 40


def test_an_extractor_that_the_disk_damaged_is_fetched_again(device: Any, program: TransferProgram) -> None:
    workshop, task = device()
    file = workshop._blobs.path(program.bundle.spec.input.extractor)
    file.write_bytes(program.extractor[:-1] + b"?")
    with pytest.raises(BlobError, match="damaged"):
        workshop.perform(task, lambda: False)
    assert not file.exists()


def test_a_round_by_hand_takes_the_extractor_beside_the_bundle(
    tmp_path: Path, program: TransferProgram
) -> None:
    (tmp_path / BUNDLE_FILE).write_bytes(program.bundle.to_bytes())
    assert extractor_beside(tmp_path) is None
    (tmp_path / EXTRACTOR_FILE).write_bytes(program.extractor)
    source = DataSource("npz", write_pictures(tmp_path / "pictures.npz", 40))
    update = train_once(
        read_bundle_file(tmp_path),
        program.weights,
        Site("clinic", source, validation_fraction=0.25, cache=tmp_path / "cache"),
        PLAN,
        extractor=extractor_beside(tmp_path / BUNDLE_FILE),
    )
    assert update.header.training.examples == 30
    assert update.header.evaluation is not None and update.header.evaluation.examples == 10
    assert np.isfinite(update.header.training.loss)
    assert len(FeatureCache(tmp_path / "cache", program.bundle.spec.input)) == 40
