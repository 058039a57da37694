"""The one error of this package, and how much of an error the server may hear."""

from __future__ import annotations

from compression.errors import BrambleError

MAX_REASON = 500
NOT_TOLD = "this device's examples cannot be used: its own log names the file"


class DataError(BrambleError, ValueError):
    """The data cannot be used; the message is one line that names the file and the remedy."""


def reason_for_server(exc: Exception) -> str:
    """An error's message, but for those that name a file or what is in it: these stay on the device."""
    if isinstance(exc, (DataError, OSError)):
        return NOT_TOLD
    return str(exc)[:MAX_REASON]
