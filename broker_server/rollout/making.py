"""From the fleet's weights, or from a file somebody gives, to a model in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt

from broker_server import clock
from broker_server.config import ServerConfig, shown_name
from broker_server.program import every_example, trained_model
from broker_server.rollout.figures import FIGURES, ReleaseFigures
from broker_server.rollout.planning import RolloutError
from broker_server.rollout.quantising import Quantised, Quantiser, load_own
from broker_server.rollout.registry import ModelRecord, keep_files
from broker_server.stages import Stages
from compression.errors import BrambleError
from compression.models.export import ExportedModel, export_model
from compression.models.precision import Calibration, precision_of
from compression.models.tflite_file import read_tflite
from compression.records import dumps
from compression.size_report import zipped_bytes
from compression.spec import ModelSpec
from compression.tf import quiet
from edge_client.data import Batch, LocalData, batches
from edge_client.inference.calibration import (
    expected_calibration_error,
    fit_temperature,
    temperature_losses,
    tempered,
)
from edge_client.inference.gate import preparation_digest
from edge_client.inference.latency import Latency, measure_latency
from edge_client.inference.likeness import fit_likeness
from edge_client.inference.predictor import Predictor
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.calibration import Answering, CalibrationSums
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.rollout import Release

Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]  # probabilities and labels


class ModelMaker:
    """Makes models of one fleet's newest weights. Without a network."""

    def __init__(self, config: ServerConfig, stages: Stages, models: BlobStore) -> None:
        self._config = config
        self._stages = stages
        self._models = models
        self._quantiser = Quantiser(config, stages)
        self._held_out: LocalData | None = None

    def from_weights(self, version: int, parent: int) -> ModelRecord:
        """Export the newest weights by the recipe of the settings."""
        spec, versions = self._stages.bundle.spec.whole, self._stages.versions
        with quiet():
            model = trained_model(self._config.model, spec, versions.weights)
            self._stages.frozen.check(model)
            made = self._quantiser.release_of(model, spec, lambda file: self._sums_of(file, spec))
            plain = export_model(model, classes=len(spec.classes), recipe="float32")
        answering, exported = self._answering(), made.exported
        metrics = self._measure(version, spec, made, plain, answering)
        release = self._release(version, self._models.put(exported.tflite), exported.calibration, answering)
        origin = f"{shown_name(self._config.model.name)}, {versions.latest.version} rounds"
        return _record(release, parent, origin, self._config.release.recipe, metrics)

    def from_file(self, version: int, parent: int, model: BlobRef, origin: str, recipe: str) -> ModelRecord:
        """Take a TFLite file as it is: for the fleet's classes and preprocessing, float32 in and out.

        Raises:
            RolloutError: it is not such a file, or the fleet has no weights to compare it with.
        """
        data, spec = self._models.read(model), self._stages.bundle.spec.whole
        try:
            calibration = precision_of(read_tflite(data)).calibration
            predictor = Predictor(data, spec)
            latency = measure_latency(predictor, np.zeros(spec.input.shape, np.float32))
        except BrambleError as exc:
            raise RolloutError(f"{origin} is no model for this fleet: {exc}") from exc
        scores = self._scores(predictor, spec)
        answering = replace(self._answering(), temperature=_own_temperature(scores))
        metrics = {"latency_p50_ms": latency.p50_ms} | _quality(scores, answering)
        return _record(self._release(version, model, calibration, answering), parent, origin, recipe, metrics)

    # ---- inside ----

    def _release(
        self, version: int, model: BlobRef, calibration: Calibration, answering: Answering
    ) -> Release:
        release = Release(
            fleet=self._config.fleet,
            order=0,
            version=version,
            model=model,
            bundle=self._stages.bundle_ref,
            extractor=self._stages.frozen.manifest,
            preparation=preparation_digest(self._stages.bundle.spec),
            weights=self._stages.versions.reference(),
            calibration=calibration,
            gate=self._config.release.gate,
            answering=answering,
        )
        keep_files(release, self._stages.artefacts, self._models)
        return release

    def _answering(self) -> Answering:
        """Temperature and likeness from what devices said of the newest weights they evaluated."""
        for stage in range(self._stages.index - 1, -1, -1):
            results = self._stages.ledger.results(stage).values()
            sums = [result.calibration for result in results if result.calibration is not None]
            if sums:
                total = reduce(add, sums, CalibrationSums())
                return Answering(temperature=fit_temperature(total), likeness=fit_likeness(total))
        return Answering()

    def _sums_of(self, tflite: bytes, spec: ModelSpec) -> EvaluationSums | None:
        return _sums(self._scores(Predictor(tflite, spec), spec))

    def _scores(self, predictor: Predictor, spec: ModelSpec) -> Scores | None:
        """The released file itself on the held-out examples."""
        if self._config.data.evaluation is None:
            return None
        data = self._held_out or load_own(self._config.data.evaluation, spec)
        self._held_out = data  # each way to calibrate is measured on them
        probabilities, labels = [], []
        for batch in batches(data, every_example(data), spec):
            probabilities.append(predictor.predict(_real(batch)))
            labels.append(batch.labels[batch.weights > 0])
        return np.concatenate(probabilities), np.concatenate(labels)

    def _measure(
        self,
        version: int,
        spec: ModelSpec,
        made: Quantised,
        plain: ExportedModel,
        answering: Answering,
    ) -> dict[str, float]:
        small, float32 = Predictor(made.exported.tflite, spec), Predictor(plain.tflite, spec)
        example = self._example(spec)
        quick = Predictor(made.exported.tflite, spec, exact=False)  # both by this machine's fastest kernels
        fast, slow = measure_latency(quick, example), measure_latency(float32, example)
        scores = self._scores(small, spec)
        figures = _figures(version, made, plain, _sums(scores), fast, slow)
        self._stages.ledger.set_fact(FIGURES, dumps(figures).decode())
        return {"latency_p50_ms": fast.p50_ms, "float32_bytes": float(len(plain.tflite))} | _quality(
            scores, answering
        )

    def _example(self, spec: ModelSpec) -> npt.NDArray[np.float32]:
        if self._config.data.evaluation is None:
            return np.zeros(spec.input.shape, np.float32)
        data = load_own(self._config.data.evaluation, spec)
        example: npt.NDArray[np.float32] = next(batches(data, every_example(data)[:1], spec)).inputs[0]
        return example


def _record(
    release: Release, parent: int, origin: str, recipe: str, metrics: Mapping[str, float]
) -> ModelRecord:
    return ModelRecord(
        version=release.version,
        parent=parent,
        created=clock.now(),
        origin=origin[:500],
        recipe=recipe[:500],
        metrics=metrics,
        release=release,
    )


def read_model_file(path: Path) -> bytes:
    """A file to be pushed; raise `RolloutError` unless it is a TFLite file."""
    data = path.read_bytes()
    try:
        read_tflite(data)
    except BrambleError as exc:
        raise RolloutError(f"{path} is not a TFLite file: {exc}") from exc
    return data


def _sums(scores: Scores | None) -> EvaluationSums | None:
    if scores is None:
        return None
    probabilities, labels = scores
    own = np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1.0)
    return EvaluationSums.of(labels, probabilities, float(-np.log(own).sum()))


def _own_temperature(scores: Scores | None) -> float:
    """Of a file that is not the devices' weights: by the held-out examples, or left as it is without any."""
    if scores is None:
        return 1.0
    probabilities, labels = scores
    losses = temperature_losses(probabilities, labels)
    return fit_temperature(CalibrationSums(examples=len(labels), losses=losses))


def _quality(scores: Scores | None, answering: Answering) -> dict[str, float]:
    """Accuracy and the calibration error before and after the temperature; nothing without examples."""
    sums = _sums(scores)
    if scores is None or sums is None:
        return {}
    probabilities, labels = scores
    figures = {
        "accuracy": sums.accuracy,
        "auc": sums.auc,
        "loss": sums.loss,
        "calibration_error_before": expected_calibration_error(probabilities, labels),
        "calibration_error": expected_calibration_error(
            tempered(probabilities, answering.temperature), labels
        ),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _figures(
    version: int,
    made: Quantised,
    plain: ExportedModel,
    sums: EvaluationSums | None,
    fast: Latency,
    slow: Latency,
) -> ReleaseFigures:
    return ReleaseFigures(
        version=version,
        int8_bytes=len(made.exported.tflite),
        float32_bytes=len(plain.tflite),
        int8_zipped_bytes=zipped_bytes(made.exported.tflite),
        float32_zipped_bytes=zipped_bytes(plain.tflite),
        calibration=made.exported.calibration,
        calibrated=made.figures,
        int8=sums,
        int8_p50_ms=fast.p50_ms,
        int8_p99_ms=fast.p99_ms,
        float32_p50_ms=slow.p50_ms,
        float32_p99_ms=slow.p99_ms,
        runs=fast.runs,
    )


def _real(batch: Batch) -> npt.NDArray[np.float32]:
    return batch.inputs[batch.weights > 0]
