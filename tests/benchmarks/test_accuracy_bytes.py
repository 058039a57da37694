"""``bramble-bench accuracy-bytes``: real rounds on a small table, summaries by hand, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy_bytes import COUNTED, CodecResult, benchmark_accuracy, summarise
from benchmarks.cli import main
from benchmarks.codec_text import accuracy_text, verdict
from benchmarks.errors import BenchmarkError
from benchmarks.federated_run import Course, run_federation
from benchmarks.federation import Federation, Plan, found_federation
from benchmarks.output import read_results
from benchmarks.plot import check_plot_file, draw_accuracy
from edge_client.data import batches
from edge_client.training import LiteRTTrainer

PLAN = Plan("wisconsin", clients=3, partition="dirichlet:0.5", rounds=3, learning_rate=0.01)
KEYS = {"codec", "accuracy_mean", "accuracy_std", "bytes_up", "bytes_down", "ratio_up", "ratio_down"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found_federation(PLAN, 1, tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def founded(fleet: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes seconds: the fleet that there is serves every seed."""
    monkeypatch.setattr("benchmarks.accuracy_bytes.found_federation", lambda *_: fleet)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 8x8 pictures, dark and bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = (rng.integers(0, 80, (60, 8, 8)) + 160 * labels[:, np.newaxis, np.newaxis]).astype(np.uint8)
    file = tmp_path / "pictures.npz"
    np.savez(file, images=images, labels=labels)
    return file


# ---- rounds ----


def test_one_round_with_float32_is_federated_averaging(fleet: Federation) -> None:
    """Done again here by hand: the mean of the clients' weights by their numbers of examples."""
    trainer = LiteRTTrainer(fleet.bundle)
    total = {name: np.zeros(array.shape) for name, array in fleet.weights.items()}
    examples = sum(len(data.train_index) for data in fleet.clients)
    for client, data in enumerate(fleet.clients):
        rng = np.random.default_rng([1, 1, client])
        trainer.set_weights(fleet.weights)
        trainer.reset_optimizer()
        trainer.train(
            batches(data, data.train_index, trainer.spec, rng=rng, augment=True), learning_rate=0.01, rng=rng
        )
        for name, array in trainer.get_weights().items():
            total[name] += array * (len(data.train_index) / examples)
    trainer.set_weights({name: array.astype(np.float32) for name, array in total.items()})
    test = fleet.test
    expected = trainer.evaluate(batches(test, np.arange(len(test.labels)), trainer.spec)).accuracy
    course = run_federation(fleet, "float32", replace(PLAN, rounds=1))
    assert course.accuracies == (pytest.approx(expected),)
    size = 4 * fleet.bundle.spec.parameters
    assert (course.bytes_up, course.bytes_down, course.problem) == ((size,), (size,), "")
    assert course.likeness == pytest.approx(1) and 0 < course.start_bytes < size


def test_lossless_goes_the_way_of_float32_in_fewer_bytes(fleet: Federation) -> None:
    plain, packed = (run_federation(fleet, name, PLAN) for name in ("float32", "lossless"))
    assert packed.accuracies == plain.accuracies
    assert sum(packed.bytes_up) < sum(plain.bytes_up) and sum(packed.bytes_down) < sum(plain.bytes_down)
    assert plain.accuracies[-1] > 0.8  # something was learnt


@pytest.mark.parametrize("codec", ["small", "stc-4", "drive", "qsgd"])
def test_a_run_can_be_repeated(fleet: Federation, codec: str) -> None:
    first = run_federation(fleet, codec, PLAN)
    assert first == run_federation(fleet, codec, PLAN)
    assert 0.2 < first.likeness < 1 and len(first.accuracies) == 3
    assert max(first.bytes_up) < fleet.bundle.spec.parameters


def test_two_directions_can_have_two_codecs(fleet: Federation) -> None:
    course, size = run_federation(fleet, "small/float32", PLAN), 4 * fleet.bundle.spec.parameters
    assert course.bytes_down == (size,) * 3 and max(course.bytes_up) < size / 10


def test_a_training_that_diverges_is_a_problem_and_not_the_end(fleet: Federation) -> None:
    broken = {name: np.full_like(array, 1e30) for name, array in fleet.weights.items()}
    course = run_federation(replace(fleet, weights=broken), "small", PLAN)
    assert course.problem.startswith("round 1: ") and course.accuracies == ()
    assert math.isnan(course.likeness)


def test_the_share_of_a_round_is_told_after_every_client(fleet: Federation) -> None:
    shares: list[float] = []
    run_federation(fleet, "float32", PLAN, shares.append)
    assert len(shares) == 9 and sum(shares) == pytest.approx(3)


# ---- summaries, by hand ----

GOOD = Course((0.6, 0.8, 0.9), (10.0, 20.0, 30.0), (1, 2, 3), 50, 0.5)
BETTER = Course((0.8, 0.9, 1.0), (20.0, 20.0, 20.0), (3, 3, 3), 70, 0.7)
FAILED = Course((0.6,), (10.0,), (1,), 50, 0.5, "round 2: the loss is nan")


def result_of(*courses: Course, target: float = 0.8, codec: str = "small") -> CodecResult:
    return summarise(codec, courses, rounds=3, clients=2, parameters=100, target=target)


def test_means_over_the_seeds() -> None:
    result = result_of(GOOD, BETTER)
    assert result.accuracy_mean == pytest.approx(0.95) and result.accuracies == (0.9, 1.0)
    assert result.accuracy_std == pytest.approx(0.1 / math.sqrt(2))
    assert result.accuracy_last_rounds == pytest.approx((2.3 / 3 + 0.9) / 2)
    assert (result.bytes_up, result.bytes_down) == (60, 7.5)
    assert (result.ratio_up, result.ratio_down) == (1200 / 60, 1200 / 7.5)
    assert (result.start_bytes, result.cosine_up) == (60, pytest.approx(0.6))
    assert result.curve == (pytest.approx(0.7), pytest.approx(0.85), pytest.approx(0.95))
    assert result.seeds_at_target == 2
    assert (result.rounds_to_target, result.bytes_up_to_target, result.bytes_down_to_target) == (1.5, 25, 3)


def test_a_target_that_one_seed_misses_has_no_price() -> None:
    result = result_of(GOOD, BETTER, target=0.95)
    assert result.seeds_at_target == 1
    assert result.rounds_to_target is None and result.bytes_up_to_target is None


def test_a_seed_that_failed_leaves_no_mean_of_the_others() -> None:
    result = result_of(BETTER, FAILED)
    assert result.accuracy_mean is None and result.ratio_up is None and result.curve == ()
    assert result.problems == ("seed 1, round 2: the loss is nan",)
    text = accuracy_text([result])
    assert "small: seed 1, round 2: the loss is nan" in text and "No codec got through" in text


def test_one_seed_has_no_deviation() -> None:
    assert result_of(GOOD).accuracy_std == 0.0


def test_the_verdict_compares_with_float32() -> None:
    base, small = result_of(GOOD, codec="float32"), result_of(BETTER)
    assert verdict([small, base]) == (
        "small: 20 times fewer bytes up and 133 down than float32, accuracy +10.00 points against float32."
    )
    assert verdict([small]) == "small alone: nothing to compare it with."


# ---- the command ----


def test_the_command_prints_a_list_and_draws(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "curve.svg"
    arguments = ("--dataset", f"npz:{pictures}", "--clients", "2", "--rounds", "2", "--seeds", "1")
    saved = tmp_path / "accuracy.json"
    files = ("--plot", str(plot), "--save", str(saved))
    more = ("--codecs", "float32,small", "--batch", "8", "--target", "0.1", *files)
    assert main(["accuracy-bytes", *arguments, *more, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = json.loads(captured.out)
    assert [row["codec"] for row in rows] == ["float32", "small"]
    for row in rows:
        assert row.keys() >= KEYS
        assert (row["clients"], row["rounds"], row["seeds"], row["counted"]) == (2, 2, 1, COUNTED)
        assert row["environment"]["cores"] >= 1 and len(row["curve"]) == 2
        assert row["rounds_to_target"] == 1
    assert rows[0]["bytes_up"] == 4 * 2 * rows[0]["parameters"] and rows[0]["ratio_down"] == 1
    assert rows[1]["ratio_up"] > 20
    drawn = plot.read_text()
    assert "<svg" in drawn and drawn.count("<path") > 10
    [result] = read_results(saved)
    assert [row["codec"] for row in result["rows"]] == ["float32", "small"]
    assert "than float32" in result["verdict"]
    assert main(["compare", str(saved), str(saved)]) == 0
    assert "small, bytes up" in (said := capsys.readouterr().out) and "1 of 5 seeds needed" in said


def test_the_command_prints_a_table(founded: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--dataset", "wisconsin", "--rounds", "1", "--seeds", "1")
    assert main(["accuracy-bytes", *arguments, "--codecs", "float32"]) == 0
    text = capsys.readouterr().out
    assert "3 clients, 1 rounds, 1 seeds" in text and COUNTED in text and "on: " in text


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_plots_of_every_kind_even_of_nothing(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"plot{suffix}"
    draw_accuracy([result_of(GOOD), result_of(BETTER, target=2), result_of(FAILED)], file)
    assert file.stat().st_size > 1000
    draw_accuracy([result_of(FAILED)], file)
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "wisconsin", "--codecs", "small,zip"), "unknown codec 'zip'"),
        (("--dataset", "wisconsin", "--codecs", "small/zip"), "unknown codec 'zip'"),
        (("--dataset", "wisconsin", "--codecs", "small,small"), "each once"),
        (("--dataset", "npz:absent.npz"), "absent.npz"),
        (("--dataset", "parquet:x"), "expected wisconsin, folder:PATH"),
        (("--dataset", "wisconsin", "--partition", "by-hand"), "partition 'by-hand'"),
        (("--dataset", "wisconsin", "--clients", "900"), "too few for 900 devices"),
        (("--dataset", "wisconsin", "--model", "nothing"), "nothing"),
        (("--dataset", "wisconsin", "--plot", "curve.gif"), "a plot is one of .svg, .png, .pdf"),
        (("--dataset", "wisconsin", "--plot", "absent/curve.svg"), "absent is not a folder"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accuracy-bytes", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_pictures_are_not_columns(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="not 30 columns"):
        found_federation(Plan(f"npz:{pictures}", input=(30,)), 0, tmp_path / "fleet")


def test_the_bar_ends_where_the_rounds_end(founded: None) -> None:
    shares: list[float] = []
    plan = replace(PLAN, rounds=1)
    benchmark_accuracy(plan, ["float32"], seeds=1, report=lambda _what, share: shares.append(share))
    assert shares[0] == 0 and shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_without_matplotlib_a_plot_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(BenchmarkError, match="needs matplotlib"):
        check_plot_file(tmp_path / "curve.svg")


@pytest.mark.parametrize(
    "arguments",
    [
        ["accuracy-bytes"],
        ["accuracy-bytes", "--dataset", "wisconsin", "--seeds", "0"],
        ["accuracy-bytes", "--dataset", "wisconsin", "--target", "2"],
        ["accuracy-bytes", "--dataset", "wisconsin", "--learning-rate", "none"],
        ["wire", "--parameters", "many"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
