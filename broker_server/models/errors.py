"""The error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class ModelError(BrambleError, ValueError):
    """No such model, one that does not fit the data, or one whose weights cannot be had."""
