"""One batch, as the trainer takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Batch:
    """Exactly ``spec.batch_size`` examples; a last, smaller batch is padded.

    Attributes:
        inputs: float32 [B, *spec.input.shape], preprocessed.
        labels: int32 [B], indices into ``spec.classes``.
        weights: float32 [B], 0 for padding and 1 (or the class weight) for examples.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
