"""How fast a TFLite file answers: the one measurement behind ``bramble-bench latency`` and a fleet's."""

from __future__ import annotations

import hashlib
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_client.measure.children import TIMEOUT_S, pinned, run_child
from edge_client.measure.conditions import Watch
from edge_client.measure.environment import firmware_flags, read_environment
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.measure.model import check_model, open_model
from edge_client.measure.timing import Sample, TimingRule, sample, summarise
from edge_client.runtime import runtime_name, runtime_version
from edge_client.wire.measurement import REPEATS, ColdStart, Measurement, MeasurePlan, Timings

COLD_STARTS = 3
CALLS = 200  # with inputs and outputs copied, at most, to see what copying adds
MISSING_OP = re.compile(r"builtin opcode '(\w+)' version|unresolved custom op: ([\w./:-]+?)\.?(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Setting:
    """How a file is run. `batch` is None for as many examples at a time as the file says."""

    threads: int = 1
    xnnpack: bool = True
    batch: int | None = None

    def __str__(self) -> str:
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        words += [] if self.xnnpack else ["no XNNPACK"]
        words += [] if self.batch is None else [f"batch {self.batch}"]
        return ", ".join(words)


def share_of(rule: TimingRule) -> TimingRule:
    """The rule of one repeat: all of them together come to the whole one."""
    return replace(
        rule,
        warm_up_s=rule.warm_up_s / REPEATS,
        min_runs=math.ceil(rule.min_runs / REPEATS),
        min_s=rule.min_s / REPEATS,
        max_runs=math.ceil(rule.max_runs / REPEATS),
        max_s=rule.max_s / REPEATS,
        precision=rule.precision * math.sqrt(REPEATS),
    )


class TimedModel:
    """One file in one setting while it is measured; each repeat is of a model that is loaded anew.

    Attributes:
        outputs: of the last repeat, on inputs that depend on the file's shapes alone.
        input_shapes: of the last repeat.
    """

    def __init__(self, path: Path, data: bytes, setting: Setting, *, pin: bool) -> None:
        self.outputs: list[np.ndarray] = []
        self.input_shapes: tuple[tuple[int, ...], ...] = ()
        self._path, self._data, self._setting = path, data, setting
        self._threads = setting.threads if pin else None
        self._loads: list[float] = []
        self._overheads: list[float] = []
        self._repeats: list[Sample] = []
        self._cold: ColdStart | None = None

    def start_cold(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """A few times, in processes of their own: a crash of the runtime is met here, and is only an error.

        Raises:
            MeasureError: it does not load or run, or takes longer than `timeout_s`.
        """
        with pinned(self._threads):
            self._cold = _cold_start(self._path, self._setting.threads, timeout_s)

    def repeat(self, rule: TimingRule) -> None:
        """Load and time it once more.

        Raises:
            MeasureError: the runtime says no.
        """
        setting = self._setting
        try:
            with pinned(self._threads):
                started = time.perf_counter()
                model = open_model(
                    self._data, threads=setting.threads, xnnpack=setting.xnnpack, batch=setting.batch
                )
                self._loads.append(1e3 * (time.perf_counter() - started))
                timed = sample(model.run, rule)
                calls = sample(model.call, replace(rule, warm_up_s=0.0, min_s=0.0, max_runs=CALLS))
        except (ValueError, RuntimeError) as exc:
            raise MeasureError(str(exc).strip().splitlines()[0]) from exc
        self._repeats.append(timed)
        self._overheads.append(statistics.median(calls.runs_ms) - statistics.median(timed.runs_ms))
        self.input_shapes, self.outputs = model.input_shapes, model.outputs()

    def timings(self, rule: TimingRule) -> Timings:
        """Of all repeats together; `rule` is the whole one."""
        return summarise(self._repeats, precision=rule.precision)

    @property
    def call_overhead_ms(self) -> float:
        """What a call from Python adds to an invocation: inputs in, outputs out; a median."""
        return max(0.0, statistics.median(self._overheads))  # below 0 is noise

    @property
    def load_ms(self) -> float:
        """Median over the repeats."""
        return statistics.median(self._loads)

    @property
    def cold_start(self) -> ColdStart:
        """Medians; raise `MeasureError` before `start_cold`."""
        if self._cold is None:
            raise MeasureError("never loaded")
        return self._cold


def measure_model(path: Path, plan: MeasurePlan, *, timeout_s: float = TIMEOUT_S) -> Measurement:
    """Measure one file on this machine.

    Args:
        path: of the file.
        plan: threads, and when to stop.
        timeout_s: for one cold start.

    Raises:
        UnrunnableError: it needs ops that are not here; they are named.
        MeasureError: it is broken, crashes the runtime or does not run.
    """
    data = path.read_bytes()
    check_model(data)
    rule = _rule(plan)
    pin = _may_pin()
    timed = TimedModel(path, data, Setting(plan.threads), pin=pin)
    with Watch() as watch:
        timed.start_cold(timeout_s=timeout_s)
        for _ in range(REPEATS):
            timed.repeat(share_of(rule))
    return Measurement(
        model=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        version=0,
        threads=plan.threads,
        runtime=f"{runtime_name()} {runtime_version()}",
        timings=timed.timings(rule),
        call_overhead_ms=timed.call_overhead_ms,
        load_ms=timed.load_ms,
        cold_start=timed.cold_start,
        pinned=pin,
        conditions=watch.conditions,
        throttled_flags=firmware_flags(),
        environment=read_environment(),
    )


def _rule(plan: MeasurePlan) -> TimingRule:
    usual = TimingRule()
    return replace(
        usual,
        min_runs=min(usual.min_runs, plan.runs),
        max_runs=plan.runs - plan.runs % REPEATS,  # every repeat has as many, and all together no more
        min_s=min(usual.min_s, plan.within_s),
        max_s=plan.within_s,
        warm_up_s=min(usual.warm_up_s, plan.within_s),
    )


def _may_pin() -> bool:
    """Whether this process may choose its processors: a hardened service may not."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError:
        return False
    return True


def _cold_start(path: Path, threads: int, timeout_s: float) -> ColdStart:
    answers = []
    try:
        for _ in range(COLD_STARTS):
            arguments = [str(path), str(threads)]
            answer, seconds = run_child("edge_client.measure.cold_start", arguments, timeout_s=timeout_s)
            answers.append(answer | {"process_ms": 1e3 * seconds})
    except MeasureError as exc:
        if ops := _missing_ops(str(exc)):
            raise UnrunnableError(f"the TFLite runtime here has no {', '.join(ops)}: {exc}") from exc
        raise
    names = ("process_ms", "load_ms", "first_run_ms", "peak_rss_mb")
    return ColdStart(**{name: statistics.median(answer[name] for answer in answers) for name in names})


def _missing_ops(text: str) -> Sequence[str]:
    return sorted({builtin or custom for builtin, custom in MISSING_OP.findall(text)})
