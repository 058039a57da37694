"""Two ways in which a device does not get its certificate: one passes by itself, the other needs a person."""

from __future__ import annotations

from compression.errors import BrambleError


class EnrolmentError(BrambleError):
    """Refused, or the settings cannot work: trying again changes nothing until a person acts."""


class TryLaterError(EnrolmentError):
    """No network, no service there, or too many attempts: the same will work later."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s  # as the service asked; 0 where it did not
