"""What the server measures of a release on its own machine and its own held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from broker_server.report.calibration import CalibrationFigures
from compression.records import Record
from edge_client.wire.evaluation import EvaluationSums

FIGURES = "release_figures"  # name of the fact in the ledger


@dataclass(frozen=True, slots=True)
class ReleaseFigures(Record):
    """Sizes in bytes, latencies in milliseconds for one example on one thread."""

    version: int
    int8_bytes: int
    float32_bytes: int
    int8_zipped_bytes: int
    float32_zipped_bytes: int
    calibration: Literal["full-integer", "dynamic-range", "none"]
    int8: EvaluationSums | None
    int8_p50_ms: float
    int8_p99_ms: float
    float32_p50_ms: float
    float32_p99_ms: float
    runs: int
    calibrated: CalibrationFigures | None = None  # None: nothing had to be calibrated
