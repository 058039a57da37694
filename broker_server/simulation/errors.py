"""The one error of this package."""

from __future__ import annotations

from edge_client.data import DataError


class SimulationError(DataError):
    """A data set cannot be dealt out as asked; the message is one line that says what to change."""
