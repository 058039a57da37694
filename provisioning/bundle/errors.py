"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class BundleError(BrambleError):
    """What a card needs cannot be put together; the message says what is missing."""
