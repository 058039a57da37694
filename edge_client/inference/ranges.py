"""What the activations of a network reach on this device's own examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edge_client.inference.predictor import FloatArray, PredictionError
from edge_client.runtime import make_interpreter
from edge_client.wire.ranges import ActivationRanges


def measure_ranges(
    model: bytes,
    tensors: Sequence[int],
    inputs: Iterable[FloatArray],
    *,
    clip_percent: float = 0.0,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
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

    Raises:
        PredictionError: no example, or a file that does not run here.
    """
    wanted = sorted(set(tensors))
    low, high = np.full(len(wanted), np.inf), np.full(len(wanted), -np.inf)
    count = 0
    try:
        interpreter = make_interpreter(model, keep_tensors=True)
        entry = interpreter.get_input_details()[0]["index"]
        for example in inputs:
            interpreter.set_tensor(entry, example[None])
            interpreter.invoke()
            for place, tensor in enumerate(wanted):
                values = interpreter.get_tensor(tensor)
                ends = np.percentile(values, [clip_percent, 100 - clip_percent])
                low[place], high[place] = min(low[place], ends[0]), max(high[place], ends[1])
            count += 1
    except (ValueError, RuntimeError) as exc:
        raise PredictionError(f"the ranges cannot be measured: {exc}") from exc
    if not count:
        raise PredictionError("no example to measure ranges on")
    if noise:
        spread = noise * (high - low)
        draw = rng or np.random.default_rng()
        low, high = low + draw.normal(size=len(low)) * spread, high + draw.normal(size=len(low)) * spread
        low, high = np.minimum(low, high), np.maximum(low, high)
    return ActivationRanges(tuple(wanted), tuple(low.tolist()), tuple(high.tolist()), count)
