"""What the activations of a network reach on this device's own examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edge_client.inference.predictor import FloatArray, PredictionError
from edge_client.runtime import make_interpreter
from edge_client.wire.blobs import sha256
from edge_client.wire.ranges import ActivationRanges


def measure_ranges(
    model: bytes,
    tensors: Sequence[int],
    inputs: Iterable[FloatArray],
    *,
    clip_percent: float = 0.0,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    threads: int = 1,
) -> ActivationRanges:
    """Run a float32 file over examples and report the range of each tensor.

    Args:
        model: [1, *input] in.
        tensors: positions of the activations that are wanted.
        inputs: preprocessed examples [*input].
        clip_percent: of each example's values at either end that do not count; 0 is the plain extremes.
        noise: standard deviation of what is added to each bound, as a share of the range's extent. It hides
            an outlier's exact value; it is no differential privacy, and no accountant counts it.
        rng: where noise is drawn from; None is the system's own.
        threads: for the arithmetic.

    Raises:
        PredictionError: no example, or a file that does not run here.
    """
    extremes = _Extremes(model, sorted(set(tensors)), clip_percent, threads)
    for example in inputs:
        extremes.see(example)
    if not extremes.count:
        raise PredictionError("no example to measure ranges on")
    low, high = extremes.low, extremes.high
    if noise:
        spread = noise * (high - low)
        draw = rng or np.random.default_rng()
        low, high = low + draw.normal(size=len(low)) * spread, high + draw.normal(size=len(low)) * spread
        low, high = np.minimum(low, high), np.maximum(low, high)
    return ActivationRanges(
        sha256(model), tuple(extremes.tensors), tuple(low.tolist()), tuple(high.tolist()), extremes.count
    )


class _Extremes:
    """A file at work with all its tensors kept, and how far the wanted ones have reached."""

    def __init__(self, model: bytes, tensors: Sequence[int], clip_percent: float, threads: int) -> None:
        self.tensors = tensors
        self.low, self.high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
        self.count = 0
        self._ends = [clip_percent, 100 - clip_percent]
        try:
            self._interpreter: Any = make_interpreter(model, keep_tensors=True, threads=threads)
        except (ValueError, RuntimeError) as exc:
            raise PredictionError(f"the ranges cannot be measured: {exc}") from exc
        self._entry = self._interpreter.get_input_details()[0]["index"]

    def see(self, example: FloatArray) -> None:
        """Run one example."""
        try:
            self._interpreter.set_tensor(self._entry, example[None])
            self._interpreter.invoke()
            for place, tensor in enumerate(self.tensors):
                low, high = np.percentile(self._interpreter.get_tensor(tensor), self._ends)
                self.low[place] = min(self.low[place], low)
                self.high[place] = max(self.high[place], high)
        except (ValueError, RuntimeError) as exc:
            raise PredictionError(f"the ranges cannot be measured: {exc}") from exc
        self.count += 1
