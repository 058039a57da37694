"""A device's part in calibration: how surely the fleet's weights answer here, and what they were shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from compression.spec import ModelSpec
from edge_client.data import LocalData, batches
from edge_client.inference.calibration import temperature_losses
from edge_client.inference.likeness import describe, moments
from edge_client.wire.calibration import CalibrationSums

MAX_DESCRIBED = 2000  # training examples, spread over all of them: moments need no more


class Predicts(Protocol):
    """A trainer with weights, or a released model."""

    spec: ModelSpec

    def predict(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities [N, classes] of preprocessed examples."""


def calibration_sums(
    model: Predicts,
    data: LocalData,
    alive: Callable[[], None] = lambda: None,
    *,
    raw: LocalData | None = None,
) -> CalibrationSums:
    """Losses over the validation examples, moments over the training examples; `alive` before each batch.

    Args:
        raw: the same examples as a released model takes them, where `data` has their features.
    """
    chosen = data.train_index
    if len(chosen) > MAX_DESCRIBED:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_DESCRIBED).astype(int)]
    total = CalibrationSums()
    whole = model.spec.whole
    for batch in batches(raw or data, chosen, whole):
        alive()
        total += moments(describe(batch.inputs[batch.weights > 0], whole.raw_input))
    for batch in batches(data, data.validation_index, model.spec):
        alive()
        real = batch.weights > 0
        losses = temperature_losses(model.predict(batch.inputs[real]), batch.labels[real])
        total += replace(CalibrationSums(), examples=int(real.sum()), losses=losses)
    return total
