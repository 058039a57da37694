"""Many devices' activation ranges as one.

The rule: the widest range, but no bound counts as more than `LIMIT` times the extent of the median device's,
of those on which the tensor is not dead.
Widest, because with it the fleet's ranges are those of the pooled examples; limited, because one device with
a broken sensor, or one that lies, would otherwise make every scale so coarse that nothing else is left. Of
two devices nobody can say which one lies: it takes three.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.records import loads
from edge_client.wire.ranges import ActivationRanges, RangesPlan

LIMIT = 4.0


class CalibrationError(BrambleError, ValueError):
    """Reports that cannot be merged, or a model that cannot be calibrated by the devices."""


def merge_ranges(reports: Sequence[ActivationRanges]) -> dict[int, tuple[float, float]]:
    """Lowest and highest value of each tensor.

    Raises:
        CalibrationError: no report, or reports about different files.
    """
    if not reports:
        raise CalibrationError("no device has reported activation ranges")
    tensors = reports[0].tensors
    if any((report.program, report.tensors) != (reports[0].program, tensors) for report in reports):
        raise CalibrationError("the devices' activation ranges are about different models")
    low = np.minimum(0.0, [report.low for report in reports])
    high = np.maximum(0.0, [report.high for report in reports])
    extent = LIMIT * _median_extent(high - low)
    merged = zip(np.maximum(low, -extent).min(axis=0), np.minimum(high, extent).max(axis=0), strict=True)
    return {tensor: (float(a), float(b)) for tensor, (a, b) in zip(tensors, merged, strict=True)}


def _median_extent(extents: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of each tensor, from [devices, tensors]; neither a ReLU's bound of zero nor a dead tensor limits."""
    alive = [column[column > 0] for column in extents.T]
    return np.array([np.median(column) if len(column) else 0.0 for column in alive])


def read_report(plan: RangesPlan, payload: bytes) -> ActivationRanges:
    """A device's report on the plan's program.

    Raises:
        RecordError: it is none; bounds that are not finite or not in order are none.
        CalibrationError: it is about another file, other tensors, or more examples than were asked for.
    """
    report = loads(ActivationRanges, payload, max_bytes=plan.max_report_bytes)
    if report.program != plan.program.digest:
        raise CalibrationError(
            f"ranges of program {report.program[:12]}, asked was {plan.program.digest[:12]}"
        )
    if report.tensors != plan.tensors:
        raise CalibrationError(
            f"ranges of {len(report.tensors)} tensors, not the {len(plan.tensors)} asked for"
        )
    if report.examples > plan.examples:
        raise CalibrationError(f"ranges over {report.examples} examples, asked were {plan.examples} at most")
    return report
