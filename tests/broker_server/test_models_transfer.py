"""Transfer models, on random weights at a small input: cut in two, the backbone in int8, the head trained."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.models import TRANSFER, ModelError, build_model, find_entry
from compression.spec import FeatureInput, ImageInput
from edge_client.data import LocalData, batches
from edge_client.training import LiteRTTrainer
from edge_client.training.feature_cache import FeatureCache
from edge_client.training.features import FeatureExtractor, extract_features

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)  # networks of 52 layers, converted
INPUT = ImageInput(32, 32, 1)
MOBILE = "mobilenet_v2@random"


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights alone let the signal die over 52 layers; a gamma of 4 keeps it alive."""
    import tf_keras

    tf_keras.utils.set_random_seed(2)
    whole = build_model(MOBILE, INPUT.shape, 2)
    for layer in whole.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.gamma.assign(np.full(layer.gamma.shape, 4.0, np.float32))
    return whole


@pytest.fixture(scope="module")
def pictures() -> LocalData:
    """Dark and bright ones: 24 to train on, 8 held out; the last is the first again."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 16).astype(np.int32)
    pixels = (rng.integers(0, 60, (32, *INPUT.shape)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    pixels[31], labels[31] = pixels[0], labels[0]
    empty = np.zeros(0, np.int64)
    return LocalData(pixels, labels, ("dark", "bright"), np.arange(24), np.arange(24, 32), empty, 0)


@pytest.fixture(scope="module")
def extractor_file(model: Any, pictures: LocalData) -> bytes:
    from compression.models.cutting import parts
    from compression.models.extractor import export_extractor

    exported = export_extractor(parts(model)[0], pictures.inputs[:16].astype(np.float32) / 255)
    assert exported.calibration == "full-integer"
    return exported.tflite


def python_of(runtime: str) -> str:
    """An interpreter with this runtime; the test is skipped without one."""
    if runtime == "ai-edge-litert":
        return sys.executable
    python = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not python.exists():
        pytest.skip("no tflite-runtime: make .venv-tflite, or name its Python in BRAMBLE_TFLITE_PYTHON")
    return str(python)


def steps_of(file: bytes, picture: ImageInput = INPUT) -> FeatureInput:
    return FeatureInput(picture, hashlib.sha256(file).hexdigest(), 1280)


def test_the_parts_are_the_whole(model: Any, pictures: LocalData) -> None:
    from compression.models.cutting import is_transfer, parts

    extractor, head = parts(model)
    x = pictures.inputs[:4].astype(np.float32) / 255
    np.testing.assert_allclose(head(extractor(x)).numpy(), model(x).numpy(), atol=1e-6)
    assert is_transfer(model) and not is_transfer(head)
    assert [w.name.split("/")[0] for w in model.trainable_weights] == ["dense"] * 2 + ["output"] * 2
    assert model.name == "mobilenet_v2_random"  # a dry run says so wherever its name stands


def test_pictures_reach_the_backbone_as_it_was_trained() -> None:
    """By hand: MobileNetV2 from -1 to 1; VGG16 blue, green, red from 0 to 255 less ImageNet's means."""
    import tf_keras

    pixel = np.array([[[[1.0, 0.5, 0.0]]]] * 1, np.float32).repeat(32, 1).repeat(32, 2)
    for name, wanted in {"mobilenet_v2": (1, 0, -1), "vgg16": (-103.939, 10.721, 131.32)}.items():
        whole = build_model(f"{name}@random", (32, 32, 3), 2)
        fed = tf_keras.Model(whole.input, whole.get_layer("feed").output)(pixel).numpy()
        np.testing.assert_allclose(fed[0, 0, 0], wanted, atol=1e-3)


@pytest.mark.slow
def test_a_head_learns_on_the_features_of_an_int8_backbone(
    model: Any, pictures: LocalData, extractor_file: bytes, tmp_path: Path
) -> None:
    from compression.models.cutting import parts
    from compression.trainable.compiler import compile_trainable

    steps = steps_of(extractor_file)
    cache = FeatureCache(tmp_path, steps)
    data = extract_features(pictures, steps, lambda: extractor_file, cache=cache)
    assert len(cache) == 31  # one picture was there twice
    np.testing.assert_array_equal(data.inputs[31], data.inputs[0])

    head = compile_trainable(
        parts(model)[1],
        name="head",
        input=steps,
        classes=pictures.classes,
        loss="categorical_crossentropy",
        batch_size=8,
    )
    trainer = LiteRTTrainer(head.bundle)
    trainer.set_weights(head.weights)
    rng = np.random.default_rng(0)
    losses = [
        trainer.train(
            batches(data, data.train_index, trainer.spec, rng=rng), learning_rate=0.01, rng=rng
        ).loss
        for _ in range(8)
    ]
    assert losses[-1] < losses[0] / 2
    found = trainer.evaluate(batches(data, data.validation_index, trainer.spec))
    assert found.examples == 8 and (found.accuracy or 0) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
def test_extracting_and_training_take_the_memory_of_their_plans(
    model: Any, extractor_file: bytes, tmp_path: Path, runtime: str
) -> None:
    from compression.models.cutting import parts
    from compression.models.extraction_plan import plan_extraction
    from compression.trainable.compiler import compile_trainable
    from compression.trainable.plan import plan_memory

    made = compile_trainable(
        parts(model)[1], name="head", input=steps_of(extractor_file), classes=("dark", "bright"),
        loss="categorical_crossentropy",
    )  # fmt: skip
    (tmp_path / "bundle").write_bytes(made.bundle.to_bytes())
    (tmp_path / "extractor").write_bytes(extractor_file)
    np.savez(tmp_path / "weights.npz", **made.weights)  # type: ignore[arg-type]
    done = subprocess.run(
        [python_of(runtime), CHECKOUT / "tests" / "broker_server" / "extraction_worker.py", tmp_path],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": runtime},
        check=True,
        timeout=120,
        capture_output=True,
    )
    planned = plan_extraction(extractor_file).before(plan_memory(made.bundle))
    assert planned[runtime] == pytest.approx(float(done.stdout), rel=0.15)


def test_both_runtimes_extract_alike(pictures: LocalData, extractor_file: bytes, tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", pictures.inputs[:8].astype(np.float32) / 255)
    (tmp_path / "extractor.tflite").write_bytes(extractor_file)
    subprocess.run(
        [python_of("tflite-runtime"), CHECKOUT / "tests" / "compression" / "models_worker.py", tmp_path],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": "tflite-runtime"},
        check=True,
        timeout=60,
        capture_output=True,
    )
    here = extract_features(pictures, steps_of(extractor_file), lambda: extractor_file).inputs[:8]
    there = np.load(tmp_path / "extractor.npy")
    # One step of rounding in each of 52 random layers adds up: alike, not equal.
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.95
    assert len(np.unique(here)) > 20


def test_an_extractor_for_other_pictures_is_refused(extractor_file: bytes) -> None:
    from edge_client.training import TrainingError

    with pytest.raises(TrainingError, match=r"takes \(1, 32, 32, 1\)"):
        FeatureExtractor(extractor_file, steps_of(extractor_file, ImageInput(64, 64, 1)))
    with pytest.raises(TrainingError, match="not the one that the model was made with"):
        FeatureExtractor(extractor_file + b"\0", steps_of(extractor_file))
    with pytest.raises(TrainingError, match="does not run here"):
        FeatureExtractor(b"no model", steps_of(b"no model"))


def test_weights_that_cannot_be_had_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tf_keras

    def offline(**_options: Any) -> Any:
        raise Exception("URL fetch failure on weights.h5: Name or service not known")

    monkeypatch.setattr(tf_keras.applications, "MobileNetV2", offline)
    with pytest.raises(ModelError, match=r"URL fetch failure.*mobilenet_v2@FILE.*@random for a dry run"):
        build_model("mobilenet_v2", INPUT.shape, 2)
    with pytest.raises(ModelError, match="is not a file"):
        build_model(f"vgg16@{tmp_path / 'none.h5'}", INPUT.shape, 2)
    with pytest.raises(ModelError, match="pictures of 1 or 3 channels"):
        build_model(MOBILE, (30,), 2)


def test_the_zoo_knows_them_apart_from_their_weights() -> None:
    entry = find_entry("vgg16@random")
    assert entry is TRANSFER["vgg16"] and find_entry("none") is None
    assert TRANSFER["efficientnet_v2s"].default_input == (100, 100, 3)
