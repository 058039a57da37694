"""From the fleet's weights to a released model: export, measure, sign, publish, hear what became of it."""

from __future__ import annotations

import logging
import time

import numpy as np
import numpy.typing as npt

from broker_server.config import ServerConfig
from broker_server.program import every_example, seeded_model
from broker_server.publisher import Publisher
from broker_server.report.observer import Note, ReleaseResult, RunObserver
from broker_server.rollout.figures import FIGURES, ReleaseFigures
from broker_server.stages import Stages
from compression.models.export import ExportedModel, export_model
from compression.records import dumps
from compression.spec import ModelSpec
from compression.tf import quiet
from edge_client.data import Batch, DataSource, LocalData, batches, load_data
from edge_client.inference.latency import Latency, measure_latency
from edge_client.inference.predictor import Predictor
from edge_client.session.mqtt import SessionError
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.messages import Release, ReleaseReport

log = logging.getLogger(__name__)

CALIBRATION_EXAMPLES = 200
REPUBLISH_S = 10.0  # while reports are missing: a device answers again from what it remembers


class Rollout:
    """The release at the end of a run."""

    def __init__(
        self, config: ServerConfig, stages: Stages, publisher: Publisher, observer: RunObserver
    ) -> None:
        self._config = config
        self._stages = stages
        self._publisher = publisher
        self._observer = observer
        self._release: Release | None = None
        self._deadline = 0.0
        self._grace_ends = 0.0
        self._publish_at = 0.0
        self._heard: set[str] = set()

    def begin(self) -> None:
        """Export the newest weights and publish them, unless that has been done before a restart."""
        release = self._stages.ledger.last_release()
        if release is None or release.weights.digest != self._stages.versions.latest.digest:
            release = self._make_release(1 + max(self._known_versions(release)))
        self._release = release
        self._heard = set(self._stages.ledger.release_reports(release.version))
        now = time.monotonic()
        self._deadline = now + self._config.release.wait_s
        self._grace_ends = now + self._config.rounds.grace_s
        self.publish_again()

    def waiting_for(self, online: frozenset[str]) -> frozenset[str]:
        """Devices whose report is missing; the absent are waited for as long as in a round."""
        now = time.monotonic()
        if self._release is None or now > self._deadline:
            return frozenset()
        missing = frozenset(self._stages.ledger.devices()) - self._heard
        return missing & online if now > self._grace_ends else missing

    def publish_again(self) -> None:
        """Publish the release if it is due."""
        if self._release is None or time.monotonic() < self._publish_at:
            return
        self._publish_at = time.monotonic() + REPUBLISH_S
        try:
            self._publisher.release(self._release)
        except SessionError as exc:
            log.info("%s; the release is published again later", exc)

    def on_report(self, device: str, report: ReleaseReport) -> None:
        """A device has decided."""
        if self._release is None or report.version != self._release.version:
            return
        self._stages.ledger.keep_release_report(device, report)
        if device in self._heard:
            return
        self._heard.add(device)
        self._observer.release_result(
            ReleaseResult(
                device=device,
                version=report.version,
                verdict=report.outcome,
                reason=report.reason if report.outcome == "refused" else "",
                accuracy=report.accuracy,
                latency_p50_ms=report.latency_p50_ms,
            )
        )

    def _known_versions(self, release: Release | None) -> list[int]:
        """Versions in use; the devices' own count, should the ledger have been lost."""
        hellos = self._stages.ledger.devices().values()
        return [release.version if release else 0, *(hello.model_version for hello in hellos)]

    def _make_release(self, version: int) -> Release:
        recipe = self._config.release.recipe
        self._observer.note(Note(f"making the {recipe} model"))
        spec, versions = self._stages.bundle.spec, self._stages.versions
        classes, calibration = len(spec.classes), self._calibration(spec)
        with quiet():
            model = seeded_model(self._config.model, spec.input.shape, classes)
            from compression.trainable import load_keras_weights

            load_keras_weights(model, versions.weights)
            exported = export_model(model, classes=classes, recipe=recipe, calibration=calibration)
            plain = export_model(model, classes=classes, recipe="float32")
        self._keep_figures(version, spec, exported, plain)
        release = Release(
            fleet=self._config.fleet,
            version=version,
            model=self._stages.artefacts.put(exported.tflite),
            bundle=self._stages.bundle_ref,
            weights=versions.reference(),
            calibration=exported.calibration,
            gate=self._config.release.gate,
        )
        self._stages.ledger.keep_release(release)
        return release

    def _calibration(self, spec: ModelSpec) -> npt.NDArray[np.float32] | None:
        source = self._config.data.calibration
        if source is None:
            return None
        data = _load(source, spec)
        chosen = every_example(data)[:CALIBRATION_EXAMPLES]
        return np.concatenate([_real(batch) for batch in batches(data, chosen, spec)])

    def _keep_figures(
        self, version: int, spec: ModelSpec, exported: ExportedModel, plain: ExportedModel
    ) -> None:
        int8, float32 = Predictor(exported.tflite, spec), Predictor(plain.tflite, spec)
        example = np.zeros(spec.input.shape, np.float32)
        sums: EvaluationSums | None = None
        if self._config.data.evaluation is not None:
            data = _load(self._config.data.evaluation, spec)
            sums = _evaluate(int8, spec, data)
            example = next(batches(data, every_example(data)[:1], spec)).inputs[0]
        fast, slow = measure_latency(int8, example), measure_latency(float32, example)
        figures = _figures(version, exported, plain, sums, fast, slow)
        self._stages.ledger.set_fact(FIGURES, dumps(figures).decode())


def _figures(
    version: int,
    exported: ExportedModel,
    plain: ExportedModel,
    sums: EvaluationSums | None,
    fast: Latency,
    slow: Latency,
) -> ReleaseFigures:
    return ReleaseFigures(
        version=version,
        int8_bytes=len(exported.tflite),
        float32_bytes=len(plain.tflite),
        calibration=exported.calibration,
        int8=sums,
        int8_p50_ms=fast.p50_ms,
        int8_p99_ms=fast.p99_ms,
        float32_p50_ms=slow.p50_ms,
        float32_p99_ms=slow.p99_ms,
        runs=fast.runs,
    )


def _load(source: str, spec: ModelSpec) -> LocalData:
    return load_data(DataSource.parse(source), spec.input, spec.classes, validation_fraction=0.0, seed=0)


def _real(batch: Batch) -> npt.NDArray[np.float32]:
    return batch.inputs[batch.weights > 0]


def _evaluate(predictor: Predictor, spec: ModelSpec, data: LocalData) -> EvaluationSums:
    """The released file itself on the held-out examples."""
    probabilities, labels = [], []
    for batch in batches(data, every_example(data), spec):
        probabilities.append(predictor.predict(_real(batch)))
        labels.append(batch.labels[batch.weights > 0])
    scores, truth = np.concatenate(probabilities), np.concatenate(labels)
    own = np.clip(scores[np.arange(len(truth)), truth], 1e-7, 1.0)
    return EvaluationSums.of(truth, scores, float(-np.log(own).sum()))
