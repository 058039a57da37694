"""The zoo: each architecture with what it is for, by the name that ``--model`` takes.

Nothing here imports TensorFlow until a model is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from broker_server.models.errors import ModelError
from compression.references import ModelReferenceError, build_with, load_function

RANDOM = "random"  # after the @ of a transfer model, in place of a file: a dry run

Build = Callable[[Sequence[int], int], Any]  # (input shape, number of classes) -> tf_keras.Model


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


def _transfer_model(reference: str, input_shape: Sequence[int], classes: int) -> Any:
    module = importlib.import_module("broker_server.models.transfer")
    name, _, weights = reference.partition("@")
    return module.transfer_model(name, weights or "imagenet", input_shape, classes)


def _transfer(name: str, summary: str, extent: int) -> ModelEntry:
    shape = (extent, extent, 3)
    return ModelEntry(
        name, f"{summary}, frozen; dropout, dense 32", "image", shape, partial(_transfer_model, name)
    )


# Heads on a network that others trained: NAME takes Keras' download, NAME@FILE a file, NAME@random nothing.
TRANSFER: Mapping[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        _transfer("efficientnet_v2s", "EfficientNetV2-S", 100),
        _transfer("efficientnet_b0", "EfficientNet-B0", 96),
        _transfer("mobilenet_v2", "MobileNetV2", 96),
        _transfer("resnet50", "ResNet-50", 96),
        _transfer("vgg16", "VGG-16", 96),
    )
}


def find_entry(reference: str) -> ModelEntry | None:
    """The zoo's entry for a name, weights after an @ left aside; None for anything else."""
    name = reference.partition("@")[0]
    return TRANSFER.get(name) or MODELS.get(reference)


def build_model(reference: str, input_shape: Sequence[int], classes: int) -> Any:
    """Build a `tf_keras` model.

    Args:
        reference: a name from `MODELS`; one from `TRANSFER`, with the backbone's weights after an ``@``;
            or ``module:function`` where the function takes (input shape, number of classes); the module
            is looked for on the path and in the working directory.
        input_shape: shape of one example.
        classes: how many; two make one output.

    Raises:
        ModelError: there is no such model, or it cannot be built for this input.
    """
    shape = tuple(int(extent) for extent in input_shape)
    try:
        return build_with(_function(reference, shape), reference, shape, classes)
    except ModelReferenceError as exc:
        raise ModelError(str(exc)) from exc


def _function(reference: str, shape: tuple[int, ...]) -> Build:
    if reference.partition("@")[0] in TRANSFER:
        return partial(_transfer_model, reference)
    return load_function(reference) if ":" in reference else _zoo_function(reference, shape)


def _zoo_function(name: str, shape: tuple[int, ...]) -> Build:
    if name not in MODELS:
        known = ", ".join((*MODELS, *TRANSFER))
        raise ModelError(f"unknown model {name!r}: use one of {known}, or module:function")
    kind = "image" if len(shape) == 3 else "table"
    if MODELS[name].kind != kind:
        fitting = ", ".join(entry.name for entry in _ENTRIES if entry.kind == kind)
        raise ModelError(f"model {name!r} takes {MODELS[name].kind} data, this is {kind} data: use {fitting}")
    return MODELS[name].build
