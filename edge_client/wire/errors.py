"""The one error that reading from the network raises."""

from compression.errors import BrambleError


class WireError(BrambleError, ValueError):
    """Bytes, a topic or a signature from the network are not what the protocol allows."""
