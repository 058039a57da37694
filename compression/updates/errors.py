"""The one error of the update codec."""

from compression.errors import BrambleError


class CodecError(BrambleError, ValueError):
    """An update cannot be coded, or bytes are not what the codec writes."""
