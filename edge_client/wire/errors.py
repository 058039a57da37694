"""The one error that reading from the network raises."""


class WireError(ValueError):
    """Bytes, a topic or a signature from the network are not what the protocol allows."""
