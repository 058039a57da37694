"""Joules for one answer of a model: measured beside the same time at rest, or estimated and called so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.models import read_model
from benchmarks.power import Integral, PowerMeter, find_meter, typical_watts
from edge_client.measure.children import run_child
from edge_client.measure.model import LoadedModel, open_model
from edge_client.wire.measurement import Environment

Report = Callable[[str, float], None]
ESTIMATE = "estimate"
NO_METER = (
    "no power sensor (INA219, INA226, INA260 under hwmon or IIO) and no figure for this board: "
    "name a USB meter with --meter, or give what one in the supply shows with --watts"
)


@dataclass(frozen=True, slots=True)
class EnergyResult:
    """One file on one thread.

    Attributes:
        source: the sensor, or "estimate: " and what it is made of.
        watts: while the model answered, of the whole board.
        idle_watts: of the board at rest, just before; None for an estimate.
        mj_per_answer: millijoules of the whole board.
        mj_above_idle: what the answers added; None for an estimate.
    """

    file: str
    source: str
    estimate: bool
    seconds: float
    answers: int
    watts: float
    idle_watts: float | None
    mj_per_answer: float
    mj_above_idle: float | None


def benchmark_energy(
    path: Path,
    environment: Environment,
    *,
    meter: PowerMeter | None = None,
    watts: float | None = None,
    for_s: float = 10.0,
    root: Path = Path("/"),
    report: Report = lambda _what, _share: None,
) -> EnergyResult:
    """Let a model answer for a while.

    Args:
        path: of the TFLite file.
        environment: whose board the estimate is of.
        meter: that is in the supply line; None for a sensor of the board, or an estimate.
        watts: of the whole board while it computes, from a meter that people read.
        for_s: seconds at rest, and at work.
        root: where /sys is.
        report: told what is being done.

    Raises:
        BenchmarkError: the file cannot be measured, the sensor cannot be read, or there is nothing to go by.
    """
    data, _ = read_model(path)
    if meter is None and watts is None:
        meter = find_meter(root)
    drawn = watts if watts is not None else typical_watts(environment.board)
    if meter is None and (drawn is None or (environment.emulated and watts is None)):
        raise BenchmarkError(NO_METER)
    run_child("edge_client.measure.cold_start", [str(path), "1"])  # a crash of the runtime is met there
    try:
        model = open_model(data, threads=1)
        model.run()
    except (ValueError, RuntimeError) as exc:
        raise BenchmarkError(f"{path}: {str(exc).strip().splitlines()[0]}") from exc
    if meter is not None:
        return _measured(path, model, meter, for_s, report)
    return _estimated(path, model, drawn or 0.0, watts is not None, for_s, report, environment.board or "")


def _estimated(
    path: Path, model: LoadedModel, watts: float, given: bool, for_s: float, report: Report, board: str
) -> EnergyResult:
    seconds, answers = _answer(model, for_s, report)
    what = f"{watts:g} W as given" if given else f"{watts:.2f} W, typical of {board}"
    return EnergyResult(
        file=str(path),
        source=f"{ESTIMATE}: {what}, times the seconds",
        estimate=True,
        seconds=seconds,
        answers=answers,
        watts=watts,
        idle_watts=None,
        mj_per_answer=1e3 * watts * seconds / answers,
        mj_above_idle=None,
    )


def _measured(
    path: Path, model: LoadedModel, meter: PowerMeter, for_s: float, report: Report
) -> EnergyResult:
    report("at rest", 0.0)
    with Integral(meter) as rest:
        time.sleep(for_s)
    with Integral(meter) as work:
        seconds, answers = _answer(model, for_s, report)
    idle, joules = rest.watts, work.watts * seconds
    return EnergyResult(
        file=str(path),
        source=meter.name,
        estimate=False,
        seconds=seconds,
        answers=answers,
        watts=joules / seconds,
        idle_watts=idle,
        mj_per_answer=1e3 * joules / answers,
        mj_above_idle=1e3 * (joules - idle * seconds) / answers,
    )


def _answer(model: LoadedModel, for_s: float, report: Report) -> tuple[float, int]:
    started, answers = time.monotonic(), 0
    while (passed := time.monotonic() - started) < for_s or not answers:
        model.run()
        answers += 1
        report("answering", passed / for_s if for_s else 1.0)
    return time.monotonic() - started, answers


def verdict(result: EnergyResult) -> str:
    """What it comes to, in words."""
    name = Path(result.file).name
    if result.estimate:
        about = f"an answer of {name} takes about {result.mj_per_answer:.3g} mJ"
        return f"ESTIMATE, not measured: {about} ({result.source})."
    return (
        f"An answer of {name} takes {result.mj_per_answer:.3g} mJ of the whole board, "
        f"{result.mj_above_idle:.3g} mJ more than at rest ({result.source})."
    )
