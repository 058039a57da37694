"""The weights that travel, and their names.

Keras counts layers over the life of a process: the first dense layer of the second model is ``dense_1``.
A name that travels must be the same in every process, so layers with a counted name are counted anew
within the model; names that the user gave stay.

Frozen layers do not travel: their weights are constants of the program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, Weights
from compression.trainable.errors import TrainableError

Layer = Any


@dataclass(frozen=True, slots=True)
class TravellingVariable:
    """One Keras variable, its layer and how it is called on the wire."""

    spec: TensorSpec
    layer: Layer
    key: str  # "kernel", "gamma", ...
    variable: Any


def leaf_layers(model: Any) -> Iterator[Layer]:
    """All layers that are not models, those of nested models included, each once."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from leaf_layers(layer)
        else:
            yield layer


def variable_key(variable: Any) -> str:
    """The last part of a Keras variable's name: ``conv/kernel:0`` is "kernel"."""
    return str(variable.name).split(":", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]


def travelling_variables(model: Any) -> tuple[TravellingVariable, ...]:
    """What the optimiser moves and what batch normalisation keeps, in the order of the layers."""
    found, counts, seen = [], Counter[str](), set[int]()
    for layer in leaf_layers(model):
        name = _layer_name(layer, counts)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        trainable = {id(variable) for variable in layer.trainable_weights}
        for variable in layer.weights if layer.trainable else ():
            role: Literal["trainable", "statistic"]
            role = "trainable" if id(variable) in trainable else "statistic"
            key = variable_key(variable)
            shape = tuple(int(extent) for extent in variable.shape)
            found.append(TravellingVariable(TensorSpec(f"{name}/{key}", shape, role), layer, key, variable))
    return tuple(found)


def _layer_name(layer: Layer, counts: Counter[str]) -> str:
    kind = re.sub(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    match = re.fullmatch(r"(.*?)(_\d+)?", layer.name)
    stem = match[1] if match else layer.name
    if stem not in (kind, type(layer).__name__.lower(), _keras_stem(layer)):
        return re.sub(r"[^A-Za-z0-9_.:/-]", "_", str(layer.name))
    counts[stem] += 1
    return stem if counts[stem] == 1 else f"{stem}_{counts[stem] - 1}"


def _keras_stem(layer: Layer) -> str:
    """The name Keras derives from a class: ``Conv2D`` is "conv2d"."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


def keras_weights(model: Any) -> dict[str, npt.NDArray[np.float32]]:
    """The Keras model's weights by the names and in the order of the spec."""
    return {item.spec.name: np.array(item.variable.numpy()) for item in travelling_variables(model)}


def load_keras_weights(model: Any, weights: Weights) -> None:
    """Put federated weights into the Keras model they came from, or one built the same way.

    Raises:
        TrainableError: names or shapes are not those of this model.
    """
    items = travelling_variables(model)
    names = [item.spec.name for item in items]
    if list(weights) != names:
        odd = sorted(set(weights) ^ set(names)) or ["the order"]
        raise TrainableError(f"weights are not those of model {model.name!r}: {odd[0]} differs")
    for item in items:
        if weights[item.spec.name].shape != item.spec.shape:
            raise TrainableError(
                f"{item.spec.name}: model {model.name!r} has shape {item.spec.shape}, "
                f"the weights {weights[item.spec.name].shape}"
            )
    for item in items:
        item.variable.assign(weights[item.spec.name])
