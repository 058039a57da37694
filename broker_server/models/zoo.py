"""The zoo: each architecture with what it is for, by the name that ``--model`` takes.

Nothing here imports TensorFlow until a model is built.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compression.errors import BrambleError

Build = Callable[[Sequence[int], int], Any]  # (input shape, number of classes) -> tf_keras.Model


class ModelError(BrambleError, ValueError):
    """No such model, or one that does not fit the data."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One architecture.

    Attributes:
        kind: what a row of its input is.
        default_input: shape of one example where the data does not say.
        build: (input shape, number of classes) to a `tf_keras.Model`; two classes make one output.
    """

    name: str
    summary: str
    kind: Literal["image", "table"]
    default_input: tuple[int, ...]
    build: Build


def _lazy(module: str, function: str) -> Build:
    """A build function whose module, and TensorFlow with it, is imported on the first call."""

    def build(input_shape: Sequence[int], classes: int) -> Any:
        return getattr(importlib.import_module(f"broker_server.models.{module}"), function)(
            input_shape, classes
        )

    return build


def _image(name: str, summary: str) -> ModelEntry:
    return ModelEntry(name, summary, "image", (64, 64, 1), _lazy("images", name))


def _table(name: str, summary: str) -> ModelEntry:
    return ModelEntry(name, summary, "table", (30,), _lazy("tables", name))


_ENTRIES = (
    _image("small_cnn", "3 conv blocks 8-16-32, dense 32"),
    _image(
        "small_cnn_frozen", "small_cnn with a fourth conv and a second dense, the first two blocks frozen"
    ),
    _image("mobile_cnn", "depthwise blocks as in MobileNet, ReLU6"),
    _image("residual_cnn", "3 residual stages 16-32-64"),
    _table("small_mlp", "dense 32-16"),
    _table("tabular_mlp", "dense 512-256-128-64-32, batch norm, dropout, L2"),
)
MODELS: Mapping[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


def build_model(reference: str, input_shape: Sequence[int], classes: int) -> Any:
    """Build a `tf_keras` model.

    Args:
        reference: a name from `MODELS`, or ``module:function`` where the function takes (input shape,
            number of classes); the module is looked for on the path and in the working directory.
        input_shape: shape of one example.
        classes: how many; two make one output.

    Raises:
        ModelError: there is no such model, or it cannot be built for this input.
    """
    shape = tuple(int(extent) for extent in input_shape)
    build = _user_function(reference) if ":" in reference else _zoo_function(reference, shape)
    try:
        model = build(shape, classes)
    except (ValueError, TypeError) as exc:
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise ModelError(f"model {reference!r} cannot be built for input {shape}: {reason}") from exc
    if not hasattr(model, "layers"):
        raise ModelError(f"{reference!r} returned {type(model).__name__}, not a tf_keras model")
    return model


def _zoo_function(name: str, shape: tuple[int, ...]) -> Build:
    if name not in MODELS:
        raise ModelError(f"unknown model {name!r}: use one of {', '.join(MODELS)}, or module:function")
    kind = "image" if len(shape) == 3 else "table"
    if MODELS[name].kind != kind:
        fitting = ", ".join(entry.name for entry in _ENTRIES if entry.kind == kind)
        raise ModelError(f"model {name!r} takes {MODELS[name].kind} data, this is {kind} data: use {fitting}")
    return MODELS[name].build


def _user_function(reference: str) -> Build:
    module_name, _, function_name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's path does not hold the working directory
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ModelError(f"model {reference!r} cannot be loaded: {exc}") from exc
    if not callable(function):
        raise ModelError(f"model {reference!r} is not a function of (input shape, number of classes)")
    return function  # type: ignore[no-any-return]
