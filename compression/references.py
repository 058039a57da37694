"""A user's own model by ``module:function``, or a saved Keras file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compression.models.errors import ModelsError
from compression.tf import quiet, tensorflow

SAVED_SUFFIXES = (".keras", ".h5", ".hdf5")


class ModelReferenceError(ModelsError):
    """What was named is no model."""


def load_reference(reference: str, input_shape: Sequence[int], classes: int) -> Any:
    """Call ``module:function`` with (input shape, number of classes).

    Raises:
        ModelReferenceError: it cannot be imported or called, or returns something else than a model.
    """
    tensorflow()  # before the user's module imports it some other way
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise ModelReferenceError(
            f"{reference!r} is not module:function, broker_server.models.images:small_cnn for one"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's path does not hold the working directory
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, SyntaxError) as exc:
        raise ModelReferenceError(f"{reference!r} cannot be loaded: {exc}") from exc
    if not callable(function):
        raise ModelReferenceError(f"{reference!r} is not a function of (input shape, number of classes)")
    try:
        with quiet():  # the first op of a process brings lines about missing GPUs
            model = function(tuple(input_shape), classes)
    except (ValueError, TypeError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ModelReferenceError(
            f"{reference!r} cannot be built for input {tuple(input_shape)}: {lines[0]}"
        ) from exc
    if not hasattr(model, "layers"):
        raise ModelReferenceError(f"{reference!r} returned {type(model).__name__}, not a tf_keras model")
    return model


def load_saved(path: Path) -> Any:
    """Read a Keras file without running code from it; raise `ModelReferenceError`."""
    tensorflow()
    keras = importlib.import_module("tf_keras")
    try:
        with quiet():
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ModelReferenceError(f"{path} is not a Keras model that can be read: {lines[0][:200]}") from exc
