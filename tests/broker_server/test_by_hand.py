"""A round without a broker: compile, train at two sites, aggregate, evaluate, export; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker_server import cli as server
from compression import cli as compress
from compression.spec import TrainableBundle
from compression.tf import quiet, tensorflow
from compression.updates import decode_update
from compression.weights_file import read_weights
from edge_client import cli as edge
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.update_file import UpdateFile, UpdateFileError, read_update

MODEL = ["broker_server.models.images:small_cnn", "--input", "16x16x1", "--classes", "no,yes"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and two sites' pictures: bright ones are "yes"."""
    folder = tmp_path_factory.mktemp("study")
    with quiet():
        tensorflow().keras.utils.set_random_seed(1)  # first weights that are the same every time
    assert compress.main(["trainable", *MODEL, "--out", str(folder / "bundle")]) == 0
    rng = np.random.default_rng(3)
    for site, examples in (("north", 12), ("south", 36)):
        for number in range(examples):
            label = ("no", "yes")[number % 2]
            pixels = rng.integers(0, 100, (16, 16)) + 120 * (label == "yes")
            path = folder / site / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    for site in ("north", "south"):
        assert train(folder, site) == 0
    return folder


def train(folder: Path, site: str, *more: str) -> int:
    arguments = ["--bundle", folder / "bundle", "--weights", folder / "bundle" / "weights.npz"]
    arguments += ["--data", folder / site, "--site", site, "--out", folder / f"{site}.bin"]
    return edge.main(["train", "--once", *map(str, arguments), *more])


def aggregate(folder: Path, *updates: str, out: str = "round1.npz") -> int:
    paths = [str(folder / name) for name in updates]
    known = str(folder / "bundle" / "weights.npz")
    bundle = str(folder / "bundle")
    return server.main(
        ["aggregate", *paths, "--bundle", bundle, "--global", known, "--out", str(folder / out)]
    )


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_the_new_weights_are_the_mean_by_example_count(study: Path) -> None:
    assert aggregate(study, "north.bin", "south.bin") == 0
    before = read_weights(study / "bundle" / "weights.npz").weights
    after = read_weights(study / "round1.npz").weights
    bundle = TrainableBundle.from_bytes((study / "bundle" / "bundle.bin").read_bytes())
    deltas = [
        decode_update(
            read_update(study / f"{site}.bin").payload, bundle.spec.tensors, model_digest=bundle.digest
        )
        for site in ("north", "south")
    ]
    assert any(np.abs(delta).max() > 0 for delta in deltas[0].delta.values())
    for name, array in before.items():
        expected = array + 0.25 * deltas[0].delta[name] + 0.75 * deltas[1].delta[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-7)


def test_rounds_by_hand_learn_and_the_result_is_exported(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = study / "bundle" / "weights.npz"
    for number in range(1, 6):
        updates = []
        for site in ("north", "south"):
            update = tmp_path / f"{site}-{number}.bin"
            arguments = ["--bundle", study / "bundle", "--weights", weights, "--data", study / site]
            arguments += ["--site", site, "--out", update, "--round", number, "--learning-rate", 0.01]
            arguments += ["--codec", "safe", "--residual", tmp_path / f"{site}.npz", "--epochs", 4]
            assert edge.main(["train", "--once", *map(str, arguments)]) == 0
            updates.append(str(update))
        out = tmp_path / f"round{number}.npz"
        arguments = ["--bundle", study / "bundle", "--global", weights, "--out", out]
        assert server.main(["aggregate", *updates, *map(str, arguments)]) == 0
        weights = out
    capsys.readouterr()
    both = ["--data", f"north={study / 'north'}", "--data", f"south={study / 'south'}", "--json"]
    assert server.main(["evaluate", str(weights), "--bundle", str(study / "bundle"), *both]) == 0
    north, south, together = json.loads(capsys.readouterr().out)
    assert [north["examples"], south["examples"], together["examples"]] == [12, 36, 48]
    assert together["accuracy"] > 0.9 and together["positive"] == "yes"
    assert together["true_positives"] == north["true_positives"] + south["true_positives"]
    model = tmp_path / "model.tflite"
    assert compress.main(["export", str(weights), "--out", str(model)]) == 0
    assert model.stat().st_size > 1000


def test_the_table_for_people(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(study / "bundle" / "weights.npz")
    assert server.main(["evaluate", weights, "--data", str(study / "north")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == (
        ["site", "examples", "accuracy", "precision", "recall", "F1", "AUC", "loss", "TN", "FP", "FN", "TP"]
    )
    assert out.splitlines()[1].split()[:2] == ["north", "12"] and out.rstrip().endswith("positive: yes")


def test_labels_in_a_list(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"no/{number}.png,no" for number in range(0, 12, 2)] + ["yes/1.png,yes"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    arguments = [str(study / "bundle" / "weights.npz"), "--data", str(study / "north")]
    assert server.main(["evaluate", *arguments, "--labels", str(tmp_path / "labels.csv"), "--json"]) == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert facts["examples"] == 7


def test_training_says_what_it_did(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(study, "north", "--validation-fraction", "0.5", "--out", str(study / "x.bin"), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["training"]["examples"] == 6 and facts["site"] == "north" and facts["codec"] == "lossless"
    assert sum(facts["evaluation"]["confusion"]) == 6


def test_updates_that_do_not_go_together(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert aggregate(study, "north.bin", "north.bin") == 1
    assert "a second update of north" in error_of(capsys)
    assert train(study, "south", "--round", "2", "--out", str(study / "late.bin")) == 0
    capsys.readouterr()
    assert aggregate(study, "north.bin", "late.bin") == 1
    assert "is for round 2, the others for round 1" in error_of(capsys)
    assert aggregate(study, "north.bin", "south.bin", out="moved.npz") == 0
    capsys.readouterr()
    moved = ["--global", str(study / "moved.npz"), "--bundle", str(study / "bundle")]
    assert server.main(["aggregate", str(study / "north.bin"), *moved, "--out", str(tmp_path / "x.npz")]) == 1
    assert "trained from other weights" in error_of(capsys)
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-3], "north.bin"),
        (lambda data: data[:40], "cut short"),
        (lambda data: b"PK" + data[2:], "not an update file"),
        (lambda data: data.replace(b'"lossless"', b'"LOSSLESS"'), "codec"),
    ],
)
def test_damaged_updates(
    study: Path, tmp_path: Path, damage: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    (tmp_path / "north.bin").write_bytes(damage((study / "north.bin").read_bytes()))
    (tmp_path / "bundle").symlink_to(study / "bundle")
    assert aggregate(tmp_path, "north.bin") == 1
    assert reason in error_of(capsys)


def test_an_update_file_is_what_it_was(study: Path) -> None:
    update = read_update(study / "south.bin")
    assert UpdateFile.from_bytes(update.to_bytes()) == update
    assert update.header.training.examples == 36
    with pytest.raises(UpdateFileError, match="not an update"):
        UpdateFile.from_bytes(b"")


def test_what_cannot_be_found_is_said(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(study / "bundle" / "weights.npz")
    capsys.readouterr()
    assert server.main(["evaluate", weights, "--data", str(tmp_path / "absent")]) == 1
    assert "no such file or folder" in error_of(capsys)
    assert server.main(["evaluate", weights, "--data", "a=x", "--data", "b=y", "--labels", "z"]) == 1
    assert "--labels goes with one" in error_of(capsys)
    assert aggregate(study, "north.bin", out="alone.npz") == 0
    capsys.readouterr()
    assert server.main(["evaluate", str(study / "alone.npz"), "--data", str(study / "north")]) == 1
    assert "give --bundle" in error_of(capsys)
    assert server.main(["evaluate", weights, "--data", str(study), "--labels", str(tmp_path / "no.csv")]) == 1
    assert "no.csv" in error_of(capsys)


def test_precision_recall_and_f1_of_counts() -> None:
    sums = EvaluationSums(loss_sum=1.0, confusion=(50, 10, 5, 35))
    assert sums.precision == pytest.approx(35 / 45) and sums.recall == pytest.approx(35 / 40)
    assert sums.f1 == pytest.approx(2 * (35 / 45) * (35 / 40) / (35 / 45 + 35 / 40))
    assert EvaluationSums(loss_sum=0.0, confusion=(3, 0, 0, 0)).precision is None
    assert EvaluationSums(loss_sum=0.0, confusion=(3, 0, 0, 0)).recall is None
    assert EvaluationSums(loss_sum=0.0, confusion=(1,) * 9).f1 is None
