"""What every error of this project's own has in common."""


class BrambleError(Exception):
    """Something that a person can put right: programs print it as one line, without a traceback."""
