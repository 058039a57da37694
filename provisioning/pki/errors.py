"""The one error of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class PkiError(BrambleError):
    """A key, certificate or authority is missing, refused or not what it should be."""
