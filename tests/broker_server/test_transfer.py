"""A transfer model on the server: compiled in two parts, named to devices, put together for the release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker_server.baselines import BaselineJob, run_baseline
from broker_server.by_hand import evaluate_sites
from broker_server.cli import main
from broker_server.config import (
    DataConfig,
    ModelConfig,
    ServerConfig,
    calibrates_on_devices,
    load_config,
    shown_name,
)
from broker_server.errors import RunError
from broker_server.fleet import write_settings
from broker_server.frozen import Frozen
from broker_server.models import ModelError, transfer
from broker_server.program import trained_model
from broker_server.run_plan import in_words
from broker_server.store.ledger import Ledger
from broker_server.transfer import TransferProgram, calibration_pictures, compile_transfer
from compression.commands import make_bundle
from compression.models.cutting import parts
from compression.records import RecordError
from compression.spec import Augmentation, FeatureInput, ImageInput, TableInput
from compression.updates import pack_model
from edge_client.data import DataSource
from edge_client.session.blobs import BlobStore
from tests.broker_server.tiny_backbone import FEATURES, HEAD, MODEL, NAME, use_tiny_backbone, write_pictures

PICTURE = ImageInput(16, 16)
CLASSES = ("0", "1")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


@pytest.fixture(scope="module")
def program() -> Iterator[TransferProgram]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield compile_transfer(MODEL, PICTURE, CLASSES)


def test_the_spec_holds_both_steps_and_the_head_alone_travels(program: TransferProgram) -> None:
    import hashlib

    spec = program.bundle.spec
    digest = hashlib.sha256(program.extractor).hexdigest()
    assert spec.input == FeatureInput(PICTURE, digest, FEATURES)
    assert spec.parameters == HEAD and spec.name == "mobilenet_v2_random"
    assert spec.whole.input == PICTURE and spec.whole.tensors == spec.tensors
    assert spec.loss == "categorical_crossentropy"  # a softmax, for two classes too
    assert program.calibration == "dynamic-range"  # no pictures on the server


def test_pictures_on_the_server_make_it_all_int8(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures.npz", 250)
    pictures = calibration_pictures(f"npz:{source}", PICTURE, CLASSES)
    assert pictures is not None and pictures.shape == (200, 16, 16, 1) and pictures.max() <= 1
    assert compile_transfer(MODEL, PICTURE, CLASSES, pictures).calibration == "full-integer"
    assert calibration_pictures(None, PICTURE, CLASSES) is None


def test_a_backbone_that_is_too_large_is_refused_with_the_setting(program: TransferProgram) -> None:
    with pytest.raises(ModelError, match=r"is a file of .* MB.*model.max_extractor_mb \(1\)"):
        from broker_server.transfer import check_size

        check_size(replace(MODEL, max_extractor_mb=1.0), 1_000_001)


def test_the_whole_is_made_of_the_same_frozen_weights_or_not_at_all(
    tmp_path: Path, program: TransferProgram
) -> None:
    config = ServerConfig(fleet="f", model=MODEL)
    frozen = Frozen(config, Ledger(tmp_path / "ledger.sqlite"), BlobStore(tmp_path / "artefacts"))
    assert frozen.manifest is None and frozen.blobs() == []
    with pytest.raises(RunError, match="has no extractor"):
        frozen.read()
    assert frozen.compile(TableInput(("a",), (0.0,), (1.0,)), CLASSES) is None
    made = frozen.compile(PICTURE, CLASSES)
    assert made is not None and made[0].spec == program.bundle.spec
    assert frozen.read() == program.extractor and len(frozen.blobs()) == 2

    spec = made[0].spec
    trained = {name: array + 1 for name, array in made[1].items()}
    model = trained_model(MODEL, spec.whole, trained)
    frozen.check(model)
    np.testing.assert_array_equal(model.get_layer("output").get_weights()[0], trained["output/kernel"])
    assert [layer.name for layer in parts(model)[1].layers][-1] == "output"
    with pytest.raises(RunError, match="not those that this run began with"):
        frozen.check(trained_model(replace(MODEL, seed=1), spec.whole, trained))


def test_baselines_and_evaluations_by_hand_go_through_the_extractor(
    tmp_path: Path, program: TransferProgram
) -> None:
    train = write_pictures(tmp_path / "train.npz", 80)
    test = write_pictures(tmp_path / "test.npz", 40, seed=1)
    for name, data in {
        "bundle": program.bundle.to_bytes(),
        "weights": pack_model(program.weights),
        "extractor": program.extractor,
    }.items():
        (tmp_path / name).write_bytes(data)
    job = BaselineJob(
        name="all", bundle=str(tmp_path / "bundle"), weights=str(tmp_path / "weights"), train=f"npz:{train}",
        test=f"npz:{test}", epochs=8, learning_rate=0.02, seed=0, extractor=str(tmp_path / "extractor"),
        cache=str(tmp_path / "cache"),
    )  # fmt: skip
    sums = run_baseline(job).sums
    assert sums.examples == 40 and (sums.accuracy or 0) > 0.8
    [found] = evaluate_sites(
        program.weights, program.bundle, {"a": DataSource("npz", test)}, extractor=lambda: program.extractor
    ).values()
    assert found.examples == 40


def test_settings_that_cannot_hold_together_are_refused() -> None:
    with pytest.raises(RecordError, match=r"takes pictures: set model\.kind"):
        ServerConfig(fleet="f", model=ModelConfig(name=NAME, kind="table"))
    with pytest.raises(RecordError, match=r"leave \[model.augmentation\] out"):
        ServerConfig(fleet="f", model=ModelConfig(name=NAME, augmentation=Augmentation(horizontal_flip=True)))


def test_devices_do_not_range_a_whole_backbone_unless_told_to() -> None:
    config = ServerConfig(fleet="f", model=MODEL)
    assert not calibrates_on_devices(config)
    assert calibrates_on_devices(replace(config, model=ModelConfig()))
    assert calibrates_on_devices(replace(config, release=replace(config.release, calibration="federated")))
    assert not calibrates_on_devices(replace(config, data=DataConfig(calibration="npz:x")))


def test_a_file_of_weights_lies_beside_the_settings_which_may_be_moved(tmp_path: Path) -> None:
    plans = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "server.toml"
        write_settings(path, ServerConfig(fleet="f", model=ModelConfig(name="vgg16@weights.h5")))
        config = load_config(path)
        assert config.model.name == f"vgg16@{tmp_path / name / 'weights.h5'}"
        plans.append(in_words(config))
    assert plans[0] == plans[1] and "vgg16@weights.h5" in plans[0]
    assert shown_name(NAME) == "mobilenet_v2 (random weights, dry run)"
    for name in ("small_cnn", "my.models:net", "vgg16"):
        assert shown_name(name) == name


def test_a_bundle_made_by_hand_brings_the_extractor_that_evaluate_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_bundle(
        f"broker_server.models.transfer:{NAME}",
        input_shape=PICTURE.shape,
        classes=CLASSES,
        directory=tmp_path / "bundle",
    )
    assert made.name == "mobilenet_v2_random" and made.parameters == HEAD
    test = write_pictures(tmp_path / "test.npz", 40)
    arguments = ["evaluate", str(tmp_path / "bundle" / "weights.npz"), "--data", str(test), "--json"]
    assert main(arguments) == 0
    [answer] = json.loads(capsys.readouterr().out)
    assert answer["examples"] == 40
    (tmp_path / "bundle" / "extractor.tflite").unlink()
    assert main(arguments) == 1
    assert "give the file of its extractor too" in capsys.readouterr().err
    with pytest.raises(AttributeError, match="no attribute 'alexnet@random'"):
        getattr(transfer, "alexnet@random")
