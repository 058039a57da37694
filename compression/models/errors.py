"""The errors of this room."""

from __future__ import annotations

from compression.errors import BrambleError


class ModelsError(BrambleError, ValueError):
    """A model cannot be read, exported or compressed; the message names what was met and the remedy."""


class ExportError(ModelsError):
    """The Keras model cannot become the TFLite file that was asked for."""


class TFLiteFileError(ModelsError):
    """The bytes are not a TFLite file that holds together."""


class RecipeError(ModelsError):
    """A recipe is unknown, wrong, or cannot be applied to this model."""
