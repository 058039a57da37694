"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class RemoteError(BrambleError):
    """A device cannot be reached, trusted or prepared over SSH; the message says what to do."""
