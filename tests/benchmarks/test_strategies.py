"""Strategies side by side: one small federation, and summaries known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.errors import BenchmarkError
from benchmarks.federation import Federation, Plan, found_federation
from benchmarks.output import read_results
from benchmarks.strategies import StrategyResult, _summary, benchmark_strategies, parse_strategy
from benchmarks.strategies_text import draw_strategies, strategies_text
from benchmarks.strategy_run import Course, run_strategy
from broker_server.strategies.fedavg import FedAvg
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fedper import FedPer
from broker_server.strategies.fedprox import FedProx
from broker_server.strategies.scaffold import Scaffold

PLAN = Plan("wisconsin", clients=3, rounds=3, optimizer="sgd", learning_rate=0.05, validation_fraction=0.2)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found_federation(PLAN, 0, tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def plain(fleet: Federation) -> Course:
    return run_strategy(fleet, FedAvg(), PLAN)


def test_a_run_is_the_same_again_and_learns(fleet: Federation, plain: Course) -> None:
    assert run_strategy(fleet, FedAvg(), PLAN) == plain
    assert plain.accuracies[-1] > 0.63 and not plain.problem
    assert len(plain.accuracies) == len(plain.own) == len(plain.bytes_up) == 3
    assert min(*plain.bytes_up, *plain.bytes_down) > 0


def test_what_adds_nothing_is_fedavg(fleet: Federation, plain: Course) -> None:
    assert run_strategy(fleet, FedProx(mu=0.0), PLAN) == plain
    assert run_strategy(fleet, FedProx(mu=50.0), PLAN) != plain


def test_control_variates_cost_as_much_again(fleet: Federation, plain: Course) -> None:
    course = run_strategy(fleet, Scaffold(), PLAN)
    assert course.accuracies[-1] > 0.63
    assert 1.7 < sum(course.bytes_up) / sum(plain.bytes_up) < 2.3
    assert 1.7 < sum(course.bytes_down) / sum(plain.bytes_down) < 2.3


def test_with_a_buffer_there_are_as_many_trainings_and_more_steps(fleet: Federation, plain: Course) -> None:
    course = run_strategy(fleet, FedBuff(buffer=1), PLAN)
    assert len(course.accuracies) == 3
    assert sum(course.bytes_down) > 2 * sum(plain.bytes_down)
    assert course.own[-1] > 0.5


def test_personal_heads_leave_no_whole_model(fleet: Federation, plain: Course) -> None:
    course = run_strategy(fleet, FedPer(), PLAN, fine_tune=1)
    assert course.accuracies == () and len(course.own) == 3
    assert sum(course.bytes_up) < sum(plain.bytes_up)
    assert course.tuned is not None and course.tuned > 0.5


def test_what_diverges_says_where(fleet: Federation) -> None:
    plan = Plan(
        "wisconsin",
        clients=3,
        rounds=3,
        optimizer="sgd",
        learning_rate=1e3,
        epochs=5,
        validation_fraction=0.2,
    )
    assert "after 0 rounds" in run_strategy(fleet, FedAvg(), plan).problem


# ---- summaries ----

FIRST = Course((0.5, 0.9, 0.7), (0.6, 0.6, 0.8), (30, 30, 30), (9, 9, 9), tuned=0.9)
SECOND = Course((0.7, 0.7, 0.9), (0.6, 0.6, 1.0), (30, 30, 60), (9, 9, 9), tuned=1.0)


def test_means_over_the_seeds() -> None:
    result = _summary("fedavg", FedAvg(), [FIRST, SECOND], clients=3)
    assert result.curve == pytest.approx((0.6, 0.8, 0.8))
    assert (result.lowest, result.highest) == ((0.5, 0.7, 0.7), (0.7, 0.9, 0.9))
    assert result.accuracy_mean == pytest.approx(0.8)
    assert result.accuracy_std == pytest.approx(np.sqrt(0.02))
    assert (result.own_mean, result.tuned_mean) == (pytest.approx(0.9), pytest.approx(0.95))
    assert result.worst_drop == 0.0
    assert (result.bytes_up, result.bytes_down) == (35.0, 27.0)
    assert result.accuracies == (0.7, 0.9)
    assert _summary("fedavg", FedAvg(), [FIRST], clients=3).worst_drop == pytest.approx(0.2)


def test_a_run_that_ended_early_leaves_no_mean() -> None:
    broken = Course((0.5,), (0.5,), (30,), (9,), problem="after 1 rounds: it diverged")
    result = _summary("fedavg", FedAvg(), [FIRST, broken], clients=3)
    assert result.accuracy_mean is None and result.curve == ()
    assert result.problems == ("seed 1, after 1 rounds: it diverged",)
    assert "fedavg: seed 1, after 1 rounds" in strategies_text([result])


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    results: list[StrategyResult] = [
        _summary("fedavg", FedAvg(), [FIRST, SECOND], clients=3),
        _summary("fedper", FedPer(), [Course((), (0.6,), (3,), (9,))], clients=3),
    ]
    text = strategies_text(results)
    assert "0.8000" in text and "simulated" in text
    draw_strategies(results, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.startswith("<?xml") and len(drawn) > 5000


# ---- what is asked for ----


def test_a_strategy_with_parameters() -> None:
    assert parse_strategy("fedprox:mu=0.5") == FedProx(mu=0.5)
    assert parse_strategy("fedbuff:buffer=2;exponent=1") == FedBuff(buffer=2, exponent=1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("best", "known are fedavg"),
        ("fedprox:mu=much", "expected NAME:PARAMETER=NUMBER"),
        ("fedprox:beta=1", "known are mu"),
        ("fedprox:mu=-1", "must be from 0"),
    ],
)
def test_what_there_is_not_is_refused(text: str, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        parse_strategy(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategies": []}, "at least one"),
        ({"strategies": ["fedavg", "fedavg"]}, "each once"),
        ({"codec": "morse"}, "unknown codec 'morse'"),
        ({"plan": Plan("wisconsin"), "strategies": ["scaffold"]}, "needs model.optimizer = 'sgd'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_trained(
    change: dict[str, object], said: str
) -> None:
    given = {"plan": PLAN, "strategies": ["fedavg"], "seeds": 1} | change
    with pytest.raises(BenchmarkError, match=said):
        benchmark_strategies(given.pop("plan"), given.pop("strategies"), **given)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", "wisconsin", "--clients", "2", "--rounds", "1", "--seeds", "1", "--json"]
    plot, saved = tmp_path / "curves.png", tmp_path / "strategies.json"
    files = ["--plot", str(plot), "--save", str(saved)]
    assert main(["strategies", *options, "--strategies", "fedavg,fednova", *files]) == 0
    rows = json.loads(capsys.readouterr().out)
    [result] = read_results(saved)
    assert rows == [
        row | {name: result[name] for name in ("benchmark", "environment")} for row in result["rows"]
    ]
    assert [row["strategy"] for row in rows] == ["fedavg", "fednova"]
    assert {row["benchmark"] for row in rows} == {"strategies"}
    assert all(row["rounds"] == 1 and "simulated" in row["simulated"] for row in rows)
    assert plot.stat().st_size > 1000
    assert main(["strategies", *options, "--strategies", "best"]) == 1
    assert "known are" in capsys.readouterr().err
