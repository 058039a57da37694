"""Carrying out a task: from the blobs of a manifest to a result, without a network.

The agent fetches and sends; what happens in between is here, so that it can be run by hand too.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from compression.errors import BrambleError
from compression.records import dumps
from compression.spec import ModelSpec, SpecError, TrainableBundle, Weights, check_weights, weights_digest
from compression.updates import PROFILES, CodecError, decode_update, unpack_model, with_feedback
from edge_client.config import EdgeConfig
from edge_client.data import (
    Batch,
    DataSource,
    LocalData,
    balanced_weights,
    batches,
    column_statistics,
    load_data,
)
from edge_client.health import health
from edge_client.session.blobs import BlobStore
from edge_client.state import DeviceState
from edge_client.training import LiteRTTrainer, TrainSums
from edge_client.wire.blobs import BlobRef
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.messages import DeltaRef, Result, Task, TrainingReport, WeightsRef

log = logging.getLogger(__name__)

Cancelled = Callable[[], bool]
T = TypeVar("T")


class TaskError(BrambleError, RuntimeError):
    """The task cannot be carried out; the message goes to the server as the reason."""


class TaskCancelledError(RuntimeError):
    """A newer task or the end of the process came before the task was done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, its payload, and the residual that holds once the payload is accepted."""

    result: Result
    payload: bytes = b""
    residual: Weights | None = None


class Workshop:
    """The bundle, the trainer and the data of one device, loaded when first needed."""

    def __init__(self, config: EdgeConfig, state: DeviceState, blobs: BlobStore) -> None:
        self._config = config
        self._state = state
        self._blobs = blobs
        self._source = DataSource.parse(config.data.source, label_column=config.data.label_column)
        self._digest = ""
        self._trainer: LiteRTTrainer | None = None
        self._data: LocalData | None = None

    def perform(self, task: Task, cancelled: Cancelled) -> Outcome:
        """Carry out a task whose blobs are all in the store.

        Raises:
            TaskError: it cannot be done, with the reason.
            BlobError: a blob is gone or damaged on disk, and removed: it is to be fetched again.
            TaskCancelledError: `cancelled` said so between two batches.
        """
        if task.kind == "statistics":
            return self._statistics(task)
        bundle, weights = _needed(task.bundle), _needed(task.weights)
        trainer, data = self.open(bundle)
        base = self.weights(weights, trainer.spec)
        trainer.set_weights(base)
        evaluation = self.evaluate(trainer, data)
        if task.kind == "evaluate":
            return Outcome(self._result(task, evaluation=evaluation))
        return self._train(task, trainer, data, base, evaluation, cancelled)

    def open(self, ref: BlobRef) -> tuple[LiteRTTrainer, LocalData]:
        """The trainer and the data for a bundle; kept until another bundle is asked for."""
        if self._digest != ref.digest or self._trainer is None or self._data is None:
            self._trainer = self._data = None  # free the old arena before the new one is made
            bundle = read_bundle(self._blobs, ref)
            self._state.use_bundle(ref.digest)
            self._data = load_data(
                self._source,
                bundle.spec.input,
                bundle.spec.classes,
                validation_fraction=self._config.data.validation_fraction,
                seed=self._config.data.seed,
                cache=self._state.directory / "cache",
            )
            self._trainer = LiteRTTrainer(bundle, threads=self._config.threads)
            self._digest = ref.digest
        return self._trainer, self._data

    def weights(self, ref: WeightsRef, spec: ModelSpec) -> Weights:
        """The weights of a version: as held, by the steps from those held, or from the full model.

        Raises:
            BlobError: of what the state believed to hold, something is damaged: fetch what is wanted now.
        """
        held, memory = self._state.weights(spec), self._state.memory
        if held is not None and memory.weights_digest == ref.digest:
            return held
        weights = self._stepped(held, memory.weights_digest, ref, spec) or self._unpacked(ref, spec)
        if weights_digest(weights) != ref.digest:
            raise TaskError(
                f"version {ref.version} of the weights does not have the digest it was signed with"
            )
        self._state.keep_weights(ref.version, ref.digest, weights)
        return weights

    def evaluate(self, trainer: LiteRTTrainer, data: LocalData) -> EvaluationSums | None:
        """How the trainer's weights do on the device's validation examples; None without any."""
        if not len(data.validation_index):
            return None
        return trainer.evaluate(batches(data, data.validation_index, trainer.spec))

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

    def _train(
        self,
        task: Task,
        trainer: LiteRTTrainer,
        data: LocalData,
        base: Weights,
        evaluation: EvaluationSums | None,
        cancelled: Cancelled,
    ) -> Outcome:
        plan = task.training
        if plan is None or plan.codec not in PROFILES:
            raise TaskError(
                f"codec {plan.codec if plan else None!r} is unknown here; known: {', '.join(PROFILES)}"
            )
        rng = np.random.default_rng([plan.seed, task.round, zlib.crc32(self._config.name.encode())])
        trainer.reset_optimizer()
        started, sums = time.monotonic(), TrainSums()
        counts = tuple(data.counts(data.train_index).values())
        class_weights = balanced_weights(counts) if plan.balance else None
        for _ in range(plan.epochs):
            epoch = batches(
                data,
                data.train_index,
                trainer.spec,
                rng=rng,
                augment=plan.augment,
                class_weights=class_weights,
            )
            sums += trainer.train(_cancellable(epoch, cancelled), learning_rate=plan.learning_rate, rng=rng)
        local = trainer.get_weights()
        _check_finite(local, trainer.spec, plan.learning_rate)
        delta = {name: local[name] - base[name] for name in base}
        encoded, residual = with_feedback(
            delta,
            self._state.residual(trainer.spec),
            PROFILES[plan.codec],
            model_digest=self._digest,
            round_number=task.round,
            tensors=trainer.spec.tensors,
        )
        report = TrainingReport(
            examples=len(data.train_index),
            steps=sums.steps,
            loss=sums.loss or 0.0,
            seconds=time.monotonic() - started,
            base_version=_needed(task.weights).version,
        )
        result = self._result(
            task, payload=BlobRef.of(encoded.payload), training=report, evaluation=evaluation
        )
        return Outcome(result, encoded.payload, residual)

    def _result(
        self,
        task: Task,
        *,
        payload: BlobRef | None = None,
        training: TrainingReport | None = None,
        evaluation: EvaluationSums | None = None,
    ) -> Result:
        return Result(
            task=task.number,
            status="done",
            payload=payload,
            training=training,
            evaluation=evaluation,
            health=health(self._state.directory),
        )

    # ---- versions of the weights ----

    def _stepped(
        self, held: Weights | None, held_digest: str, ref: WeightsRef, spec: ModelSpec
    ) -> Weights | None:
        steps = steps_from(ref, held_digest)
        if held is None or not steps or not all(self._blobs.has(step.blob) for step in steps):
            return None
        weights = held
        try:
            for step in steps:
                delta = decode_update(
                    self._blobs.read(step.blob), spec.tensors, model_digest=self._digest
                ).delta
                weights = {name: weights[name] + delta[name] for name in weights}
        except CodecError as exc:
            raise TaskError(f"a step to version {ref.version} cannot be read: {exc}") from exc
        return weights

    def _unpacked(self, ref: WeightsRef, spec: ModelSpec) -> Weights:
        try:
            weights = unpack_model(self._blobs.read(ref.full), spec.tensors)
            check_weights(weights, spec)
        except (CodecError, SpecError) as exc:
            raise TaskError(f"version {ref.version} of the weights cannot be read: {exc}") from exc
        return weights


def read_bundle(blobs: BlobStore, ref: BlobRef) -> TrainableBundle:
    """Read a bundle from the store; raise `TaskError` if it is not one, `BlobError` if it is not there."""
    try:
        return TrainableBundle.from_bytes(blobs.read(ref))
    except SpecError as exc:
        raise TaskError(f"the training bundle cannot be read: {exc}") from exc


def steps_from(ref: WeightsRef, held_digest: str) -> tuple[DeltaRef, ...]:
    """The steps that lead from the weights held to a version; empty if they do not."""
    for index, step in enumerate(ref.steps):
        if step.from_digest == held_digest:
            return ref.steps[index:]
    return ()


def wanted_blobs(bundle: BlobRef | None, weights: WeightsRef | None, held_digest: str) -> list[BlobRef]:
    """What a device that holds some version must fetch for a task or a release."""
    wanted = [bundle] if bundle else []
    if weights and weights.digest != held_digest:
        steps = steps_from(weights, held_digest)
        cheaper = steps and sum(step.blob.size for step in steps) < weights.full.size
        wanted += [step.blob for step in steps] if cheaper else [weights.full]
    return wanted


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


def _needed(value: T | None) -> T:
    if value is None:
        raise TaskError("the task lacks what its kind needs")
    return value
