"""The error of this package."""

from __future__ import annotations


class BenchmarkError(ValueError):
    """Something cannot be measured; the message says what and why."""
