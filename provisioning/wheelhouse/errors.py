"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class WheelhouseError(BrambleError):
    """A wheelhouse cannot be made or is not what its lock says; the message says what to do."""
