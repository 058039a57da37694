"""What tracking raises."""

from compression.errors import BrambleError


class TrackingError(BrambleError, RuntimeError):
    """A tracker that was asked for cannot be had."""
