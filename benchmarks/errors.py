"""The error of this package."""

from __future__ import annotations

from compression.errors import BrambleError


class BenchmarkError(BrambleError, ValueError):
    """Something cannot be measured; the message says what and why."""
