"""A user's own model by ``module:function``, or a saved Keras file."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compression.errors import BrambleError
from compression.models.errors import ModelsError
from compression.tf import quiet, tensorflow

SAVED_SUFFIXES = (".keras", ".h5", ".hdf5")


class ModelReferenceError(ModelsError):
    """What was named is no model."""


def load_reference(reference: str, input_shape: Sequence[int], classes: int) -> Any:
    """Call ``module:function`` with (input shape, number of classes), or with nothing if it takes nothing.

    Raises:
        ModelReferenceError: it cannot be imported or called, or returns something else than a model.
    """
    tensorflow()  # before the user's module imports it some other way
    return build_with(load_function(reference), reference, input_shape, classes)


def own_shape(reference: str) -> tuple[tuple[int, ...], int]:
    """Input shape and number of classes of a model whose function takes nothing.

    Raises:
        ModelReferenceError: as `load_reference`, or the function is to be told them.
    """
    tensorflow()
    function = load_function(reference)
    if _is_told(function):
        raise ModelReferenceError(f"{reference!r} makes a model for any input: give --input and --classes")
    model = _built(function, reference, "itself")
    shapes = model.input_shape, model.output_shape
    if not all(isinstance(shape, tuple) and None not in shape[1:] for shape in shapes):
        raise ModelReferenceError(f"{reference!r} has input {shapes[0]}: give --input and --classes")
    return shapes[0][1:], max(shapes[1][-1], 2)


def load_function(reference: str) -> Callable[..., Any]:
    """The function of a module on the path or in the working directory.

    Raises:
        ModelReferenceError: there is no such thing, or the module fails.
    """
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
    except Exception as exc:  # importing runs the user's code
        raise ModelReferenceError(f"{reference!r} cannot be loaded: {_told(exc)}") from exc
    if not callable(function):
        raise ModelReferenceError(f"{reference!r} is not a function of (input shape, number of classes)")
    return function  # type: ignore[no-any-return]


def build_with(function: Callable[..., Any], reference: str, input_shape: Sequence[int], classes: int) -> Any:
    """The model that a function makes for this input; raise `ModelReferenceError`."""
    shape = tuple(int(extent) for extent in input_shape)
    if _is_told(function):
        return _built(function, reference, f"input {shape}", shape, classes)
    model = _built(function, reference, "itself")
    own = model.input_shape
    if isinstance(own, tuple) and own[1:] != shape:
        raise ModelReferenceError(f"{reference!r} takes {own[1:]}, not {shape}")
    return model


def _is_told(function: Callable[..., Any]) -> bool:
    """Whether a function takes (input shape, number of classes)."""
    try:
        return bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # something built in
        return True


def _built(function: Callable[..., Any], reference: str, what: str, *arguments: object) -> Any:
    try:
        with quiet():  # the first op of a process brings lines about missing GPUs
            model = function(*arguments)
    except BrambleError:
        raise
    except Exception as exc:  # the user's code, and Keras within it, may raise anything
        raise ModelReferenceError(f"{reference!r} cannot be built for {what}: {_told(exc)}") from exc
    if not hasattr(model, "layers"):
        raise ModelReferenceError(f"{reference!r} returned {type(model).__name__}, not a tf_keras model")
    return model


def _told(exc: Exception) -> str:
    """The error in a line, with the place in the user's code where it came up."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    kind = "" if isinstance(exc, (ValueError, ImportError)) else f"{type(exc).__name__}: "
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{kind}{lines[0][:200]}{place}"


def _is_users(filename: str) -> bool:
    path = Path(filename)
    return path.suffix == ".py" and not {"site-packages", "importlib", "compression"} & set(path.parts)


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
