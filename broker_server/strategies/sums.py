"""Weighted sums of tensors, one update in memory at a time: what every strategy aggregates with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compression.spec import Weights

Floats = npt.NDArray[np.float32]


class Sums:
    """Sums in float64, taken in the order given: the same updates in the same order give the same bits."""

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self.weight = 0.0

    def add(self, tensors: Weights, weight: float, *, scale: float | None = None) -> None:
        """Add tensors times `weight`; `scale` multiplies them in its place, and the weight still counts.

        Raises:
            ValueError: a weight that is not above 0.
        """
        if not weight > 0:
            raise ValueError(f"an update of weight {weight:g} does not count")
        self.weight += weight
        factor = weight if scale is None else scale
        for name, array in tensors.items():
            product = np.multiply(array, factor, dtype=np.float64)
            if name in self._sums:
                self._sums[name] += product
            else:
                self._sums[name] = product

    def over(self, divisor: float, *, times: float = 1.0) -> dict[str, Floats]:
        """The sums divided and multiplied, as float32; raise `ValueError` if nothing was added."""
        if not self._sums:
            raise ValueError("there is no update to average")
        return {name: np.asarray(array / divisor * times, np.float32) for name, array in self._sums.items()}

    def mean(self, *, times: float = 1.0) -> dict[str, Floats]:
        """The weighted mean, times a factor."""
        return self.over(self.weight or 1.0, times=times)
