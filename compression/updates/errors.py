"""The one error of the update codec."""


class CodecError(ValueError):
    """An update cannot be coded, or bytes are not what the codec writes."""
