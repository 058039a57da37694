"""A transfer model in two: what is frozen and runs once a picture, and the head that is trained.

The cut is the layer "features". What is before it becomes an int8 file (`compression.models.extractor`), what
is behind it is compiled for training like any small network.
"""

from __future__ import annotations

from typing import Any

from compression.tf import tensorflow

CUT = "features"


def parts(model: Any) -> tuple[Any, Any]:
    """The frozen part, pictures to features, and the head, features to probabilities; they share weights."""
    keras = tensorflow().keras
    cut = model.get_layer(CUT)
    extractor = keras.Model(model.input, cut.output, name=f"{model.name}_extractor")
    behind = model.layers[model.layers.index(cut) + 1 :]
    features = x = keras.layers.Input(tuple(cut.output.shape[1:]), name="extracted")
    for layer in behind:
        x = layer(x)
    return extractor, keras.Model(features, x, name=f"{model.name}_head")


def is_transfer(model: Any) -> bool:
    """Whether `parts` can cut it, and nothing before the cut is trained."""
    names = [layer.name for layer in model.layers]
    return CUT in names and not any(layer.trainable_weights for layer in model.layers[: names.index(CUT)])


def trained_part(model: Any) -> Any:
    """What devices train of it: the head of a transfer model, all of any other."""
    return parts(model)[1] if is_transfer(model) else model
