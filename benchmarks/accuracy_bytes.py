"""How accurate a federation gets for how many bytes, codec by codec, over several seeds.

A seed deals the data, draws the first weights and the order of the examples; codecs share it all. Bytes are
those of payloads, for one client over all rounds: topics, manifests and chunk headers are the transport's,
and the first weights, sent whole once whatever the codec, are told apart. Ratios are to four bytes a
parameter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.federated_run import Course, find_pair, run_federation
from benchmarks.federation import Plan, found_federation

Report = Callable[[str, float], None]
COUNTED = "payload bytes a client over all rounds; without the first weights, topics, manifests and headers"
LAST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class CodecResult:
    """One codec, both directions. None where a run did not get there.

    Attributes:
        codec: its name, or that of up and down with a slash between.
        accuracy_mean: after the last round, over the seeds.
        accuracy_std: sample standard deviation over the seeds, 0 for one.
        accuracy_last_rounds: mean over the last 5 rounds: accuracy wavers from round to round.
        bytes_up: of one client, all rounds.
        bytes_down: of the steps sent to one client, all rounds.
        ratio_up: how many times fewer than float32.
        ratio_down: the same.
        start_bytes: the first weights, packed, to one client.
        cosine_up: between what clients learnt in a round and what they sent.
        target: accuracy to be reached.
        seeds_at_target: how many seeds reached it.
        rounds_to_target: mean over the seeds, if all did; so the next two.
        bytes_up_to_target: of one client.
        bytes_down_to_target: of one client.
        curve: mean accuracy after each round.
        accuracies: after the last round, by seed.
        counted: what the bytes are.
        problems: of runs that ended early, by seed.
    """

    codec: str
    accuracy_mean: float | None
    accuracy_std: float | None
    accuracy_last_rounds: float | None
    bytes_up: float | None
    bytes_down: float | None
    ratio_up: float | None
    ratio_down: float | None
    start_bytes: float
    cosine_up: float | None
    target: float
    seeds_at_target: int
    rounds_to_target: float | None
    bytes_up_to_target: float | None
    bytes_down_to_target: float | None
    curve: tuple[float, ...]
    accuracies: tuple[float, ...]
    parameters: int
    clients: int
    rounds: int
    seeds: int
    counted: str = COUNTED
    problems: tuple[str, ...] = ()


def benchmark_accuracy(
    plan: Plan,
    codecs: Sequence[str],
    *,
    seeds: int,
    target: float = 0.95,
    report: Report | None = None,
) -> list[CodecResult]:
    """Run every codec on every seed.

    Args:
        plan: data, model and rounds.
        codecs: names, or pairs of names for up and down with a slash between.
        seeds: how many, from 0.
        target: accuracy whose price is asked for.
        report: told what is being done.

    Raises:
        BenchmarkError: an unknown codec, or data or a model that cannot be used.
    """
    if not codecs or len(set(codecs)) != len(codecs):
        raise BenchmarkError(f"codecs {','.join(codecs)!r}: name at least one, and each once")
    for name in codecs:
        find_pair(name)
    courses: dict[str, list[Course]] = {name: [] for name in codecs}
    bar = _Bar(report, len(codecs) * seeds * plan.rounds)
    parameters = clients = 0
    for seed in range(seeds):
        bar.say(f"seed {seed}: dealing data, compiling")
        with tempfile.TemporaryDirectory(prefix="bramble-bench-") as directory:
            fleet = found_federation(plan, seed, Path(directory))
            parameters, clients = fleet.bundle.spec.parameters, len(fleet.clients)
            for number, name in enumerate(codecs):
                bar.begin(f"seed {seed}: {name}", (seed * len(codecs) + number) * plan.rounds)
                courses[name].append(run_federation(fleet, name, plan, bar.step))
    return [
        summarise(name, runs, rounds=plan.rounds, clients=clients, parameters=parameters, target=target)
        for name, runs in courses.items()
    ]


class _Bar:
    """Counts rounds; what a run that ends early leaves is skipped over."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total = report, total
        self._done, self._what = 0.0, ""

    def say(self, what: str) -> None:
        self._what = what
        if self._report is not None:
            self._report(what, self._done / self._total)

    def begin(self, what: str, done: int) -> None:
        self._done = done
        self.say(what)

    def step(self, share: float) -> None:
        self._done += share
        self.say(self._what)


def summarise(
    codec: str, courses: Sequence[Course], *, rounds: int, clients: int, parameters: int, target: float
) -> CodecResult:
    """Means over the seeds; there are none if a run ended early, for the others would be a choice."""
    problems = tuple(f"seed {seed}, {run.problem}" for seed, run in enumerate(courses) if run.problem)
    whole = [] if problems else list(courses)
    float32 = 4.0 * parameters * rounds
    last = [run.accuracies[-1] for run in whole]
    up, down = (_mean([sum(run.bytes_up) for run in whole]), _mean([sum(run.bytes_down) for run in whole]))
    arrivals = [_arrival(run, target) for run in courses]
    reached = [arrival for arrival in arrivals if arrival is not None]
    prices = reached if len(reached) == len(arrivals) and whole else []
    return CodecResult(
        codec=codec,
        accuracy_mean=_mean(last),
        accuracy_std=None if not last else float(np.std(last, ddof=1)) if len(last) > 1 else 0.0,
        accuracy_last_rounds=_mean([float(np.mean(run.accuracies[-LAST_ROUNDS:])) for run in whole]),
        bytes_up=up,
        bytes_down=down,
        ratio_up=float32 / up if up else None,
        ratio_down=float32 / down if down else None,
        start_bytes=float(np.mean([run.start_bytes for run in courses])),
        cosine_up=_mean([run.likeness for run in whole]),
        target=target,
        seeds_at_target=len(reached),
        rounds_to_target=_mean([number for number, _, _ in prices]),
        bytes_up_to_target=_mean([sent for _, sent, _ in prices]),
        bytes_down_to_target=_mean([got for _, _, got in prices]),
        curve=tuple(np.mean([run.accuracies for run in whole], axis=0).tolist()) if whole else (),
        accuracies=tuple(last),
        parameters=parameters,
        clients=clients,
        rounds=rounds,
        seeds=len(courses),
        problems=problems,
    )


def _arrival(course: Course, target: float) -> tuple[float, float, float] | None:
    """The first round at the target, and the bytes up and down until then."""
    sums = zip(course.accuracies, accumulate(course.bytes_up), accumulate(course.bytes_down), strict=True)
    for number, (accuracy, up, down) in enumerate(sums, start=1):
        if accuracy >= target:
            return float(number), up, float(down)
    return None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
