"""The error of this package."""

from __future__ import annotations

from edge_client.measure.errors import MeasureError


class BenchmarkError(MeasureError):
    """Something cannot be measured; the message says what and why."""
