"""From a model's bare output to an answer: calibrated, or refused because the input is unlike the training.

`Answerer` is what every way to ask a device goes through: files, the watched folder, the page, the camera.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from compression.spec import ModelSpec
from edge_client.data import LocalData, batches
from edge_client.inference.calibration import tempered
from edge_client.inference.installed import ActiveModel
from edge_client.inference.likeness import describe, distances, own_limit
from edge_client.inference.predictor import FloatArray, Predictor
from edge_client.wire.calibration import Answering


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one input.

    Attributes:
        probabilities: [classes], calibrated.
        latency_ms: of the model alone.
        unlike: distance from the training data as a share of the largest that is answered; above 1 the
            input is refused. None where the release says nothing about its training data.
    """

    probabilities: FloatArray
    latency_ms: float
    unlike: float | None

    @property
    def refused(self) -> bool:
        """Whether the input is too unlike the training data to be answered."""
        return self.unlike is not None and self.unlike > 1


class Answerer:
    """The active model, ready to be asked.

    Raises:
        PredictionError: the model cannot be run here.
    """

    def __init__(self, model: ActiveModel, *, threads: int = 1) -> None:
        self.model = model
        self._predictor = Predictor(model.tflite, model.spec, threads=threads)

    def answer(self, example: FloatArray) -> Answer:
        """Answer for one preprocessed input [*input.shape]."""
        started = time.perf_counter()
        bare = self._predictor.predict_one(example)
        latency_ms = 1e3 * (time.perf_counter() - started)
        answering = self.model.answering
        return Answer(tempered(bare, answering.temperature), latency_ms, self._unlike(example))

    def _unlike(self, example: FloatArray) -> float | None:
        likeness = self.model.answering.likeness
        if likeness is None:
            return None
        distance = float(distances(likeness, describe(example[None], self.model.spec.raw_input))[0])
        return distance / max(likeness.limit, 1e-9)


def at_home(answering: Answering, spec: ModelSpec, data: LocalData) -> Answering:
    """As released, with the limit that answers this device's own validation examples."""
    likeness = answering.likeness
    if likeness is None or not len(data.validation_index):
        return answering
    features = [
        describe(batch.inputs[batch.weights > 0], spec.raw_input)
        for batch in batches(data, data.validation_index, spec)
    ]
    limit = own_limit(likeness, np.concatenate(features))
    return replace(answering, likeness=replace(likeness, limit=limit))
