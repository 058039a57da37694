"""Strategies side by side on one federation: accuracy round by round, over several seeds, and what it cost.

A seed deals the data, draws the first weights and the order of the examples; strategies share it all. The
clients are simulated in this process: no network, no waiting, one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.federation import Plan, found_federation
from benchmarks.strategy_run import Course, run_strategy
from broker_server.strategies import STRATEGIES, AnyStrategy
from compression.progress import Report
from compression.records import RecordError, from_plain
from compression.updates import PROFILES

LAST_ROUNDS = 5
SIMULATED = "clients simulated in one process; a round is as many trainings as there are clients"


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """One strategy over all seeds. None where a run did not get there, or where there is nothing to measure.

    Attributes:
        strategy: as it was asked for.
        paper: where it is described.
        accuracy_mean, accuracy_std: of the global weights on held-out examples, after the last round.
        accuracy_last_rounds: mean over the last 5 rounds, which waver.
        own_mean, own_std: on the clients' own validation examples together, by the weights that each uses.
        worst_drop: largest fall of `curve` from one round to the next: how unsteady it is.
        tuned_mean: as `own_mean`, after local fine-tuning.
        bytes_up, bytes_down: payloads of one client, up and down, over all rounds.
        curve: mean accuracy on held-out examples after each round.
        lowest, highest: of the seeds, after each round.
        own_curve: mean of `own` after each round.
        accuracies: after the last round, by seed.
        problems: of runs that ended early, by seed.
    """

    strategy: str
    paper: str
    accuracy_mean: float | None
    accuracy_std: float | None
    accuracy_last_rounds: float | None
    own_mean: float | None
    own_std: float | None
    worst_drop: float | None
    tuned_mean: float | None
    bytes_up: float | None
    bytes_down: float | None
    curve: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    own_curve: tuple[float, ...]
    accuracies: tuple[float, ...]
    clients: int
    rounds: int
    seeds: int
    parameters: int
    codec: str
    simulated: str = SIMULATED
    problems: tuple[str, ...] = ()


def parse_strategy(text: str) -> AnyStrategy:
    """``fedprox`` or ``fedprox:mu=0.1;more=2``; raise `BenchmarkError` for what there is not."""
    name, _, given = text.partition(":")
    if name not in STRATEGIES:
        raise BenchmarkError(f"unknown strategy {name!r}; known are {', '.join(STRATEGIES)}")
    pairs = [pair.partition("=") for pair in given.split(";") if pair]
    try:
        parameters = {key: float(value) for key, _, value in pairs}
    except ValueError as exc:
        raise BenchmarkError(f"strategy {text!r}: expected NAME:PARAMETER=NUMBER;...: {exc}") from exc
    whole = {key: int(value) if value.is_integer() else value for key, value in parameters.items()}
    try:
        return from_plain(STRATEGIES[name], {"name": name, **whole})
    except RecordError as exc:
        raise BenchmarkError(str(exc)) from exc


def benchmark_strategies(
    plan: Plan,
    strategies: Sequence[str],
    *,
    seeds: int,
    codec: str = "safe",
    fine_tune: int = 0,
    report: Report = lambda _what, _share: None,
) -> list[StrategyResult]:
    """Run every strategy on every seed.

    Args:
        plan: data, model, rounds and the clients' optimiser.
        strategies: as `parse_strategy` takes them.
        seeds: how many, from 0.
        codec: profile of both directions.
        fine_tune: epochs of each client alone after the last round; 0 for none.
        report: told what is being done.

    Raises:
        BenchmarkError: an unknown strategy or codec, or data or a model that cannot be used.
    """
    chosen = {text: parse_strategy(text) for text in strategies}
    if not chosen or len(chosen) != len(strategies):
        raise BenchmarkError(f"strategies {','.join(strategies)!r}: name at least one, and each once")
    if codec not in PROFILES:
        raise BenchmarkError(f"unknown codec {codec!r}; known are {', '.join(PROFILES)}")
    for strategy in chosen.values():
        if problem := strategy.problem(plan.optimizer):
            raise BenchmarkError(problem)
    courses: dict[str, list[Course]] = {text: [] for text in chosen}
    done, total = 0.0, len(chosen) * seeds * plan.rounds
    parameters = clients = 0
    for seed in range(seeds):
        report(f"seed {seed}: dealing data, compiling", done / total)
        with tempfile.TemporaryDirectory(prefix="bramble-bench-") as directory:
            fleet = found_federation(plan, seed, Path(directory))
            parameters, clients = fleet.bundle.spec.parameters, len(fleet.clients)
            for number, (text, strategy) in enumerate(chosen.items()):
                bar = _Bar(report, f"seed {seed}: {text}", (seed * len(chosen) + number) * plan.rounds, total)
                course = run_strategy(fleet, strategy, plan, codec=codec, fine_tune=fine_tune, step=bar.step)
                courses[text].append(course)
                done = bar.done
    results = (_summary(text, chosen[text], runs, clients) for text, runs in courses.items())
    return [replace(each, rounds=plan.rounds, parameters=parameters, codec=codec) for each in results]


class _Bar:
    """Counts rounds."""

    def __init__(self, report: Report, what: str, done: float, total: int) -> None:
        self._report, self._what, self.done, self._total = report, what, done, total

    def step(self, share: float) -> None:
        self.done += share
        self._report(self._what, self.done / self._total)


def _summary(text: str, strategy: AnyStrategy, courses: Sequence[Course], clients: int) -> StrategyResult:
    """Means over the seeds; there are none if a run ended early, for the others would be a choice."""
    problems = tuple(f"seed {seed}, {run.problem}" for seed, run in enumerate(courses) if run.problem)
    whole = [] if problems else list(courses)
    held_out = np.array([run.accuracies for run in whole if run.accuracies])
    own = np.array([run.own for run in whole])
    tuned = [run.tuned for run in whole if run.tuned is not None]
    curve = held_out.mean(axis=0) if held_out.size else np.zeros(0)
    return StrategyResult(
        strategy=text,
        paper=strategy.PAPER,
        accuracy_mean=_mean(held_out[:, -1]) if held_out.size else None,
        accuracy_std=_spread(held_out[:, -1]) if held_out.size else None,
        accuracy_last_rounds=_mean(held_out[:, -LAST_ROUNDS:]) if held_out.size else None,
        own_mean=_mean(own[:, -1]) if own.size else None,
        own_std=_spread(own[:, -1]) if own.size else None,
        worst_drop=max(0.0, float(-np.diff(curve).min())) if curve.size > 1 else None,
        tuned_mean=_mean(np.array(tuned)) if tuned else None,
        bytes_up=_mean(np.array([sum(run.bytes_up) / clients for run in whole])) if whole else None,
        bytes_down=_mean(np.array([sum(run.bytes_down) for run in whole])) if whole else None,
        curve=tuple(curve.tolist()),
        lowest=tuple(held_out.min(axis=0).tolist()) if held_out.size else (),
        highest=tuple(held_out.max(axis=0).tolist()) if held_out.size else (),
        own_curve=tuple(own.mean(axis=0).tolist()) if own.size else (),
        accuracies=tuple(held_out[:, -1].tolist()) if held_out.size else (),
        clients=clients,
        rounds=0,
        seeds=len(courses),
        parameters=0,
        codec="",
        problems=problems,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _spread(values: np.ndarray) -> float:
    """Sample standard deviation, 0 for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
