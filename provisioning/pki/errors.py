"""The one error of this room."""

from __future__ import annotations


class PkiError(Exception):
    """A key, certificate or authority is missing, refused or not what it should be."""
