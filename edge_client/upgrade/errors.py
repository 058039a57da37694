"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class UpgradeError(BrambleError):
    """A client cannot be upgraded like that; the running one stands."""
