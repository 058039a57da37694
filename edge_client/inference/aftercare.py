"""How a model does after the switch: asked again now and then, on the data as they are by then.

A gate decides on one moment. A canary's worth is what comes after it: a board that throttles, new examples
on which the model is worse, programs that get no answer. Some of that takes months: after the watch that its
release asks for, a model is looked at once a day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compression.errors import BrambleError
from compression.spec import ModelSpec
from edge_client.data import LocalData
from edge_client.data.errors import reason_for_server
from edge_client.inference.gate import score_of
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.latency import measure_latency
from edge_client.inference.predictor import Predictor
from edge_client.inference.slots import ModelSlots
from edge_client.inference.usage import read_usage
from edge_client.wire.errors import WireError
from edge_client.wire.frame import decode
from edge_client.wire.rollout import ModelHealth, Release, WatchPlan

log = logging.getLogger(__name__)

LATER_S = 86_400.0  # between two looks after the watch
RUNS, BUDGET_S = 20, 0.5  # the gate measures at leisure; this comes again and again

LoadData = Callable[[ModelSpec], LocalData]


class Aftercare:
    """Watches the active model as its release asks for, then once a day; begins anew with each process."""

    def __init__(self, directory: Path, load_data: LoadData, now: float, *, threads: int = 1) -> None:
        self._directory = directory
        self._slots = ModelSlots(directory)
        self._load_data = load_data
        self._threads = threads
        self._plan = WatchPlan()
        self._ends = self._next = now
        self.begin(now)

    def begin(self, now: float) -> None:
        """The active model may be another one: watch it as its release says."""
        self._plan = _plan_of(self._slots)
        self._ends = now + self._plan.seconds
        self._next = now if self._plan.seconds else now + LATER_S

    def next_due(self) -> float:
        """When a report is due."""
        return self._next

    def due(self, now: float) -> bool:
        """Whether a report is due."""
        return self._next <= now

    def report(self, now: float) -> ModelHealth | None:
        """Ask the model again; None without one."""
        following = now + self._plan.every_s
        self._next = following if following <= self._ends else now + LATER_S
        try:
            model = self._slots.active()
        except SlotError as exc:
            return ModelHealth(version=0, problem=str(exc)[:500])
        return None if model is None else self._asked(model)

    def _asked(self, model: ActiveModel) -> ModelHealth:
        usage = read_usage(self._directory, model.version)
        counts = {"answers": usage.answers, "errors": usage.errors, "unlike": usage.unlike}
        try:
            predictor = Predictor(model.tflite, model.spec, threads=self._threads)
            score = score_of(predictor, self._load_data(model.spec))
            blank = np.zeros(model.spec.input.shape, np.float32)
            latency = measure_latency(predictor, blank, runs=RUNS, budget_s=BUDGET_S)
        except (BrambleError, MemoryError) as exc:
            log.warning("model %d cannot be tried again: %s", model.version, exc)
            problem = reason_for_server(exc) or "no memory"
            return ModelHealth(version=model.version, problem=problem, **counts)
        return ModelHealth(
            version=model.version,
            accuracy=score.accuracy,
            examples=score.examples,
            latency_p50_ms=latency.p50_ms,
            problem="" if score.finite else "it answers with values that are not finite",
            **counts,
        )


def _plan_of(slots: ModelSlots) -> WatchPlan:
    """What the active model's release asks for; nothing without a manifest that can be read."""
    try:
        model = slots.active()
        if model is not None and model.manifest:
            release = decode(model.manifest).message
            return release.watch if isinstance(release, Release) else WatchPlan()
    except (SlotError, WireError) as exc:
        log.warning("the active model is not watched: %s", exc)
    return WatchPlan()
