"""Many devices' activation ranges as one.

The rule: the widest range, but no bound counts as more than `LIMIT` times the extent of the median device's.
Widest, because with it the fleet's ranges are those of the pooled examples; limited, because one device with
a broken sensor, or one that lies, would otherwise make every scale so coarse that nothing else is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compression.errors import BrambleError
from edge_client.wire.ranges import ActivationRanges

LIMIT = 4.0


class CalibrationError(BrambleError, ValueError):
    """Reports that cannot be merged."""


def merge_ranges(reports: Sequence[ActivationRanges]) -> dict[int, tuple[float, float]]:
    """Lowest and highest value of each tensor.

    Raises:
        CalibrationError: no report, or reports about different files.
    """
    if not reports:
        raise CalibrationError("no device has reported activation ranges")
    tensors = reports[0].tensors
    if any(report.tensors != tensors for report in reports):
        raise CalibrationError("the devices' activation ranges are about different models")
    low = np.minimum(0.0, [report.low for report in reports])
    high = np.maximum(0.0, [report.high for report in reports])
    # median of the extents, so that a bound of zero, as a ReLU has, limits nothing
    extent = LIMIT * np.median(high - low, axis=0)
    merged = zip(np.maximum(low, -extent).min(axis=0), np.minimum(high, extent).max(axis=0), strict=True)
    return {tensor: (float(a), float(b)) for tensor, (a, b) in zip(tensors, merged, strict=True)}
