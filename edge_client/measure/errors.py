"""The error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class MeasureError(BrambleError, ValueError):
    """A model cannot be measured here; the message says why."""


class UnrunnableError(MeasureError):
    """The model needs ops that this machine's runtime does not have; the message names them."""
