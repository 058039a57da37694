"""The comparison of recipes: figures known by hand, the front, and the command from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recipes.compare import RecipeResult, with_comparison
from benchmarks.recipes.data import RecipeData, input_shape, load_examples, shards, trained_model
from benchmarks.recipes.measure import FileFigures, Quality, quality
from benchmarks.recipes.show import comparison_text, draw_front, labels
from compression.cli import main
from compression.models.errors import RecipeError
from compression.models.training import Examples

pytestmark = pytest.mark.timeout(900)  # the whole command, with training, beside other tests
FIGURES = FileFigures(100, 80, 0.0, "float32", 1.0, 2.0, 50.0, "runtime 1")
QUALITY = Quality(0.9, 0.9, 0.9, 0.9, 0.9)


def result(name: str, zipped: int, accuracy: float) -> RecipeResult:
    return RecipeResult(
        recipe=name,
        summary=name,
        calibration="none",
        quality=replace(QUALITY, accuracy=accuracy),
        figures=replace(FIGURES, zipped_bytes=zipped),
    )


@pytest.fixture
def npz(tmp_path: Path) -> str:
    """Bright in the upper or in the lower half, 12x12."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 96), ("val", 16), ("test", 32)):
        labels = np.tile([0, 1], count // 2)
        images = rng.integers(0, 60, (count, 12, 12)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[6 * label : 6 * label + 6] += 120
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(tmp_path / "halves.npz", **arrays)
    return f"npz:{tmp_path / 'halves.npz'}"


def test_figures_known_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    positive = np.array([0.1, 0.6, 0.4, 0.8, 0.9], np.float32)  # one false alarm, one miss
    found = quality(labels, np.stack([1 - positive, positive], axis=1))
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.auc == pytest.approx(5 / 6)  # of 6 pairs one is the wrong way round


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("labels", "classes"), [([1, 1, 1], 2), ([0, 0, 0], 2), ([0, 2, 2], 3)])
def test_the_auc_of_a_split_that_lacks_a_class_is_not_defined(labels: list[int], classes: int) -> None:
    probabilities = np.full((3, classes), 1 / classes, np.float32)
    found = quality(np.array(labels, np.int32), probabilities)
    assert found.auc is None
    assert found.accuracy == labels.count(0) / 3  # of equal probabilities the first class is taken
    examples = Examples(np.zeros((3, 1), np.float32), np.array(labels, np.int32))
    data = RecipeData("npz:x", tuple("abc"[:classes]), examples, examples, "test")
    assert "not defined" in comparison_text([replace(result("one", 1, 0.5), quality=found)], data)


def test_the_front_is_what_nothing_else_beats() -> None:
    results = with_comparison(
        [
            result("float32", 1000, 0.95),
            result("worse", 400, 0.90),
            result("small", 300, 0.92),
            result("smallest", 100, 0.80),
            RecipeResult("broken", "x", "none", error="no"),
        ]
    )
    assert [r.recipe for r in results if r.pareto] == ["float32", "small", "smallest"]
    assert [r.size_reduction_percent for r in results] == [0, 60, 70, 90, None]


def test_points_that_lie_on_each_other_share_their_label() -> None:
    points = [
        (20.0, 85.0, "a", True),
        (60.0, 85.0, "b", False),
        (61.0, 85.0, "c", False),
        (60.0, 90.0, "d", True),
    ]
    assert labels(points) == {(20.0, 85.0): ["a"], (60.0, 85.0): ["b", "c"], (60.0, 90.0): ["d"]}


def test_each_device_has_mostly_one_class_and_none_is_lost() -> None:
    examples = Examples(np.arange(8, dtype=np.float32)[:, None], np.array([0, 1] * 4, np.int32))
    dealt = shards(examples, 2, seed=0)
    assert [set((part[:, 0] % 2).tolist()) for part in dealt] == [{0.0}, {1.0}]
    assert sorted(np.concatenate(dealt)[:, 0].tolist()) == list(range(8))


def test_the_zoo_says_what_a_model_takes(npz: str) -> None:
    assert input_shape("small_cnn", None) == (64, 64, 1)
    assert input_shape("small_cnn", (12, 12, 1)) == (12, 12, 1)
    assert input_shape("efficientnet_v2s@random", None) == (100, 100, 3)
    data = load_examples(npz, (12, 12, 1), seed=0)
    assert (len(data.train), len(data.test), data.split) == (96, 32, "test")
    with pytest.raises(RecipeError, match="has 3 outputs"):
        trained_model("tests.benchmarks.test_recipes:three_outputs", data, epochs=0)


def three_outputs(shape: tuple[int, ...], _classes: int) -> object:
    import tf_keras
    from tf_keras import layers

    return tf_keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(3)])


@pytest.mark.slow
def test_compare_from_end_to_end(npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[recipes.half]\nquantise = "int8"\n[recipes.half.prune]\nsparsity = 0.5\nepochs = 1\n')
    command = ["compare", "--model", "small_cnn", "--data", npz, "--input", "12x12x1", "--epochs", "2"]
    command += ["--recipes", f"int8,int8-federated,int8-uint8,{mine}", "--plot", str(tmp_path / "front.svg")]
    assert main([*command, "--keep", str(tmp_path / "files"), "--json"]) == 0
    lines = {line["recipe"]: line for line in json.loads(capsys.readouterr().out)}

    assert list(lines) == ["float32", "int8", "int8-federated", "int8-uint8", "half"]
    assert [line["calibration"] for line in lines.values()] == [
        "none", "pooled", "federated", "pooled", "pooled",
    ]  # fmt: skip
    for line in lines.values():
        assert line["error"] == "" and 0 <= line["accuracy"] <= 1
        assert line["zipped_bytes"] > 0 and line["latency_p50_ms"] <= line["latency_p99_ms"]
        assert line["peak_rss_mb"] > 10
        assert (tmp_path / "files" / f"{line['recipe']}.tflite").stat().st_size == line["size_bytes"]
    assert lines["int8-federated"]["simulated"] == "4 devices, on this machine"
    assert lines["int8"]["size_reduction_percent"] > 50
    assert (tmp_path / "front.svg").read_text().startswith("<?xml")


def test_text_names_what_was_simulated_skipped_and_refused(npz: str, tmp_path: Path) -> None:
    data = load_examples(npz, (12, 12, 1), seed=0)
    results = [
        replace(result("float32", 1000, 0.9), pareto=True),
        replace(
            result("a", 500, 0.9), simulated="4 devices, on this machine", skipped=("prune: x (frozen)",)
        ),
        RecipeResult("b", "x", "none", error="it holds a model"),
    ]
    text = comparison_text(results, data)
    assert "a: simulated, 4 devices, on this machine" in text
    assert "a: left as it is, prune: x (frozen)" in text and "b: not possible, it holds a model" in text
    draw_front(results, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_run_writes_a_file_and_says_how_good_it_is(
    npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.tflite"
    command = ["run", "small_cnn", "--data", npz, "--input", "12x12x1", "--epochs", "1", "--out", str(out)]
    assert main([*command, "--recipe", "int8"]) == 0
    assert "full-integer, accuracy" in capsys.readouterr().out and out.stat().st_size > 1000
    assert main([*command, "--recipe", "none"]) == 1
    assert "no recipe 'none'" in capsys.readouterr().err


def test_recipes_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert {"float32", "pcqat"} <= {line["name"] for line in json.loads(capsys.readouterr().out)}
    assert main(["compare", "--data", "npz:x"]) == 1
    assert "name one model" in capsys.readouterr().err
