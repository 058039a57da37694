"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class CustomiseError(BrambleError):
    """A card or image cannot be personalised as asked; the message says what to change."""
