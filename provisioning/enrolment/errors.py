"""What the enrolment service refuses, and what can be wrong with it."""

from __future__ import annotations

from typing import Literal

from compression.errors import BrambleError

Status = Literal[400, 401, 403, 404, 405, 408, 409, 410, 413, 429, 503]


class EnrolmentServiceError(BrambleError):
    """The service cannot be started, or its store cannot be used."""


class RefusedError(BrambleError):
    """A request that is not granted; `status` is HTTP's, the message is for the person at the device."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
