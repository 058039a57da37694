"""The one error of this package."""

from __future__ import annotations

from compression.errors import BrambleError


class DataError(BrambleError, ValueError):
    """The data cannot be used; the message is one line that names the file and the remedy."""
