"""Carrying out a task: from the blobs of a manifest to a result, without a network.

The agent fetches and sends; what happens in between is here, so that it can be run by hand too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from compression.records import dumps
from compression.sparsity import without_pruned
from compression.spec import ModelSpec, SpecError, Weights, check_weights
from compression.updates import PROFILES
from edge_client.calibrating import ranges_report
from edge_client.coding import Coder
from edge_client.config import EdgeConfig
from edge_client.data import Batch, DataSource, LocalData, batches, column_statistics
from edge_client.extractors import read_extractor
from edge_client.health import Checkup
from edge_client.inference.sums import calibration_sums
from edge_client.session.blobs import BlobStore
from edge_client.state import DeviceState
from edge_client.training import LiteRTTrainer
from edge_client.training.examples import Examples, load_examples
from edge_client.training.local import client_rng, train_locally
from edge_client.training.scaffold import correction, no_variate
from edge_client.versions import TaskError, read_bundle, read_version
from edge_client.wire.blobs import BlobRef
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.rounds import Result, Task, TrainingPlan, TrainingReport
from edge_client.wire.variates import variate_digest
from edge_client.wire.weights import WeightsRef

log = logging.getLogger(__name__)

Cancelled = Callable[[], bool]
Alive = Callable[[], None]
T = TypeVar("T")


class TaskCancelledError(RuntimeError):
    """A newer task or the end of the process came before the task was done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, its payload, and what holds once it is accepted: `edge_client.state.KEPT`."""

    result: Result
    payload: bytes = b""
    kept: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training came to; `control` is the fleet's control variate, if it was corrected by one."""

    weights: Weights
    delta: Weights
    report: TrainingReport
    control: Weights | None


class Workshop:
    """The bundle, the trainer and the data of one device, loaded when first needed.

    `alive` is called often while it reads and evaluates examples, which may take a small board hours.
    """

    def __init__(
        self, config: EdgeConfig, state: DeviceState, blobs: BlobStore, alive: Alive = lambda: None
    ) -> None:
        self._config = config
        self._state = state
        self._blobs = blobs
        self._alive = alive
        self._source = DataSource.parse(config.data.source, label_column=config.data.label_column)
        self._digest = ""
        self._trainer: LiteRTTrainer | None = None
        self._examples: Examples | None = None
        self._checkup = Checkup(state.directory)

    def perform(self, task: Task, cancelled: Cancelled) -> Outcome:
        """Carry out a task whose blobs are all in the store.

        Raises:
            TaskError: it cannot be done, with the reason.
            BlobError: a blob is gone or damaged on disk, and removed: it is to be fetched again.
            TaskCancelledError: `cancelled` said so between two batches.
        """
        if task.kind == "statistics":
            return self._statistics(task)
        if task.kind == "calibrate":
            return self._ranges(task, cancelled)
        bundle, weights = _needed(task.bundle), _needed(task.weights)
        trainer, examples = self.open(bundle, task.extractor, cancelled)
        data = examples.trained
        self._state.use_run(task.run)
        base = {**self.weights(weights, trainer.spec), **self._personal(task, trainer.spec)}
        trainer.set_weights(base)
        evaluation = self.evaluate(trainer, data)
        if task.kind == "evaluate":
            sums = calibration_sums(trainer, data, self._alive, raw=examples.raw)
            return Outcome(self._result(task, evaluation=evaluation, calibration=sums))
        trained = self._trained(task, trainer, data, base, cancelled)
        if task.kind == "finetune":  # a model of the device's own: it stays here, only its evaluation is told
            tuned = self.evaluate(trainer, data)
            result = self._result(task, evaluation=evaluation, training=trained.report, tuned=tuned)
            return Outcome(result, kept={"tuned": trained.weights})
        return self._coded(task, trained, base, trainer.spec, evaluation)

    def open(
        self, ref: BlobRef, extractor: BlobRef | None = None, cancelled: Cancelled = lambda: False
    ) -> tuple[LiteRTTrainer, Examples]:
        """The trainer and the examples for a bundle; kept until another bundle is asked for.

        Args:
            extractor: manifest of a transfer model's. Only one of extractor and trainer is ever in memory.
            cancelled: asked between two pictures while features are made, which are kept.
        """
        if self._digest != ref.digest or self._trainer is None or self._examples is None:
            self._trainer = self._examples = None  # free the old arena before the new one is made
            bundle = read_bundle(self._blobs, ref)
            self._state.use_bundle(ref.digest)
            self._examples = self._load(bundle.spec, extractor, cancelled)
            self._trainer = LiteRTTrainer(bundle, threads=self._config.threads)
            self._digest = ref.digest
        return self._trainer, self._examples

    def load_data(self, spec: ModelSpec) -> LocalData:
        """The device's examples as a released model takes them, as they are now."""
        return self._load(spec.whole).raw

    def _load(
        self, spec: ModelSpec, extractor: BlobRef | None = None, cancelled: Cancelled = lambda: False
    ) -> Examples:
        def look_up(_done: int, _total: int) -> None:
            self._alive()
            if cancelled():
                raise TaskCancelledError

        return load_examples(
            self._source,
            spec,
            validation_fraction=self._config.data.validation_fraction,
            seed=self._config.data.seed,
            extractor=(lambda: read_extractor(self._blobs, extractor)) if extractor else None,
            cache=self._state.directory / "cache",
            sweep=True,
            threads=self._config.threads,
            progress=lambda _done, _total: self._alive(),  # to the end: half of the decoded is thrown away
            extracting=look_up,
        )

    def weights(self, ref: WeightsRef, spec: ModelSpec) -> Weights:
        """The weights of a version: as held, by the steps from those held, or from the full model.

        Raises:
            BlobError: of what the state believed to hold, something is damaged: fetch what is wanted now.
        """
        held, memory = self._state.weights(spec), self._state.memory
        if held is not None and memory.weights_digest == ref.digest:
            return held
        weights = read_version(
            self._blobs,
            ref,
            spec,
            model_digest=self._digest,
            held=held,
            held_digest=memory.weights_digest,
        )
        self._state.keep_weights(ref.version, ref.digest, weights)
        return weights

    def evaluate(self, trainer: LiteRTTrainer, data: LocalData) -> EvaluationSums | None:
        """How the trainer's weights do on the device's validation examples; None without any."""
        if not len(data.validation_index):
            return None
        return trainer.evaluate(self._heard(batches(data, data.validation_index, trainer.spec)))

    def _heard(self, source: Iterator[Batch]) -> Iterator[Batch]:
        for batch in source:
            self._alive()
            yield batch

    # ---- the kinds of tasks ----

    def _statistics(self, task: Task) -> Outcome:
        statistics = column_statistics(
            self._source,
            task.columns,
            validation_fraction=self._config.data.validation_fraction,
            seed=self._config.data.seed,
        )
        payload = dumps(statistics)
        return Outcome(self._result(task, payload=BlobRef.of(payload)), payload)

    def _ranges(self, task: Task, cancelled: Cancelled) -> Outcome:
        plan, ref = _needed(task.ranges), _needed(task.bundle)
        spec = read_bundle(self._blobs, ref).spec.whole
        self._trainer = self._examples = None  # their memory is the program's now
        data = self.load_data(spec)

        def look_up() -> None:
            self._alive()
            if cancelled():
                raise TaskCancelledError

        payload = ranges_report(
            self._blobs.read(plan.program),
            plan,
            data,
            spec,
            threads=self._config.threads,
            before_each=look_up,
        )
        return Outcome(self._result(task, payload=BlobRef.of(payload)), payload)

    def _coded(
        self, task: Task, trained: Trained, base: Weights, spec: ModelSpec, evaluation: EvaluationSums | None
    ) -> Outcome:
        """What came of training, as an update."""
        plan = _plan(task)
        coder = Coder.of(spec.without(task.personal), self._digest, plan.codec, task.round)
        residual = self._state.kept("residual", coder.spec)
        if residual and plan.keep_zeros:
            residual = without_pruned(residual, base, spec.tensors)
        payload, owed = coder.update(trained.delta, residual)
        kept = {"residual": owed}
        if task.personal:
            kept["personal"] = {name: trained.weights[name] for name in task.personal}
        report = trained.report
        if trained.control is not None:
            change, kept["variate"] = coder.variate(
                trained.control,
                self._variate(spec),
                trained.delta,
                steps=report.steps,
                learning_rate=plan.learning_rate,
            )
            payload += change
            report = replace(report, variate_bytes=len(change))
        result = self._result(task, payload=BlobRef.of(payload), training=report, evaluation=evaluation)
        return Outcome(result, payload, kept)

    def _trained(
        self, task: Task, trainer: LiteRTTrainer, data: LocalData, base: Weights, cancelled: Cancelled
    ) -> Trained:
        plan = _plan(task)
        rng = client_rng(plan, task.round, self._config.name)
        control = self._control(task.control, trainer.spec) if task.control else None
        started = time.monotonic()
        sums = train_locally(
            trainer,
            data,
            plan,
            rng,
            correction=correction(control, self._variate(trainer.spec)) if control else None,
            watch=lambda epoch: _cancellable(epoch, cancelled),
        )
        local = trainer.get_weights()
        _check_finite(local, trainer.spec, plan.learning_rate)
        report = TrainingReport(
            examples=len(data.train_index),
            steps=sums.steps,
            loss=sums.loss or 0.0,
            seconds=time.monotonic() - started,
            base_version=_needed(task.weights).version,
        )
        return Trained(local, {name: local[name] - base[name] for name in base}, report, control)

    def _result(self, task: Task, **parts: Any) -> Result:
        return Result(task=task.number, status="done", health=self._checkup.health(), **parts)

    # ---- what strategies keep on the device ----

    def _personal(self, task: Task, spec: ModelSpec) -> Weights:
        """The device's own tensors; none before its first training, when the fleet's first ones serve."""
        if not task.personal:
            return {}
        shared = [tensor.name for tensor in spec.without(task.personal).tensors]
        return self._state.kept("personal", spec.without(shared)) or {}

    def _variate(self, spec: ModelSpec) -> Weights:
        return self._state.kept("variate", spec.trainable) or no_variate(spec)

    def _control(self, ref: WeightsRef, spec: ModelSpec) -> Weights:
        """The fleet's control variate, as `weights` gets the weights."""
        held, held_digest = self._state.control(spec), self._state.memory.control_digest
        if held is not None and held_digest == ref.digest:
            return held
        control = read_version(
            self._blobs,
            ref,
            spec.trainable,
            model_digest=variate_digest(self._digest),
            held=held,
            held_digest=held_digest,
        )
        self._state.keep_control(ref.digest, control)
        return control


def _cancellable(source: Iterator[Batch], cancelled: Cancelled) -> Iterator[Batch]:
    for batch in source:
        if cancelled():
            raise TaskCancelledError
        yield batch


def _check_finite(weights: Weights, spec: ModelSpec, learning_rate: float) -> None:
    try:
        check_weights(weights, spec)
    except SpecError as exc:
        raise TaskError(f"training diverged at learning rate {learning_rate:g}: {exc}") from exc


def _plan(task: Task) -> TrainingPlan:
    plan = _needed(task.training)
    if plan.codec not in PROFILES:
        raise TaskError(f"codec {plan.codec!r} is unknown here; known: {', '.join(PROFILES)}")
    return plan


def _needed(value: T | None) -> T:
    if value is None:
        raise TaskError("the task lacks what its kind needs")
    return value
