"""Temperature scaling: probabilities that mean what they say.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: divide the logits by one number that
minimises the loss on validation examples. The classes' order stays, so no prediction changes. A released
file gives probabilities, and that is enough: the logarithm of a probability is its logit up to a constant
of the example, so ``softmax(log(p) / T)`` is ``softmax(logits / T)``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_client.wire.calibration import TEMPERATURES, CalibrationSums

SMALLEST = 1e-7  # of a probability: float32 and int8 outputs hold exact zeros

Probabilities = npt.NDArray[np.float32]


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Probabilities [..., classes] at another temperature; 1 leaves them as they are."""
    if temperature == 1.0:
        return probabilities
    return np.exp(_log_tempered(_logits(probabilities), temperature)).astype(np.float32)


def temperature_losses(probabilities: Probabilities, labels: npt.NDArray[np.integer]) -> tuple[float, ...]:
    """Summed negative log-likelihood of the true classes at each of the grid's temperatures.

    Args:
        probabilities: [N, classes].
        labels: [N].
    """
    logits, rows = _logits(probabilities), np.arange(len(labels))
    return tuple(
        float(-_log_tempered(logits, temperature)[rows, labels].sum()) for temperature in TEMPERATURES
    )


def fit_temperature(sums: CalibrationSums) -> float:
    """The temperature of the grid with the least loss, the one nearest 1 of several.

    1 without examples, and where the loss still falls at the grid's lowest temperature: a model without a
    mistake in the examples is the better the surer it is, and no temperature can be found from them.
    At the highest temperature it stays there, since doubt does less harm than false certainty.
    """
    if not sums.examples:
        return 1.0
    fits = zip(sums.losses, TEMPERATURES, strict=True)
    best: float = min(fits, key=lambda fit: (fit[0], abs(math.log(fit[1]))))[1]
    return best if best > TEMPERATURES[0] else 1.0


def expected_calibration_error(
    probabilities: Probabilities, labels: npt.NDArray[np.integer], *, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by examples (0 to 1)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gap = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / max(1, len(labels)))


def _logits(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    return np.log(np.clip(probabilities.astype(np.float64), SMALLEST, 1.0))


def _log_tempered(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    scaled = logits / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return result
