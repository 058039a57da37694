"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class TrainableError(BrambleError, ValueError):
    """A model cannot be compiled for training; the message names the layer and what to use instead."""
