"""The one error of this package."""

from __future__ import annotations


class DataError(ValueError):
    """The data cannot be used; the message is one line that names the file and the remedy."""
