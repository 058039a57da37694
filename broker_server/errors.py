"""The error of a run."""

from __future__ import annotations

from compression.errors import BrambleError


class RunError(BrambleError, RuntimeError):
    """The run cannot go on; the message says what to change."""
