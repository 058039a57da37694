"""The errors of this room; each says what to do about it."""

from __future__ import annotations

from compression.errors import BrambleError


class FlashError(BrambleError):
    """A card or image file was not written; the message says why."""


class ImageError(FlashError):
    """The image is missing, damaged, truncated, of an unknown kind, or not the one that was meant."""


class RefusedError(FlashError):
    """The target is not one that may be erased."""


class VerifyError(FlashError):
    """What was read back is not what was written, or could not be read past the page cache."""
