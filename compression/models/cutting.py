"""A transfer model in two: what is frozen and runs once a picture, and the head that is trained.

The cut is the layer "features". What is before it becomes an int8 file (`compression.models.extractor`), what
is behind it is compiled for training like any small network.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.extractor import export_extractor
from compression.spec import FeatureInput, ImageInput, Input
from compression.tf import tensorflow

CUT = "features"


@dataclass(frozen=True, slots=True)
class Cut:
    """What devices train, what it takes, and the file that makes that of a picture.

    Attributes:
        trained: the head of a transfer model, all of any other.
        input: of what is trained.
        extractor: TFLite file; None for a model that is trained whole.
        calibration: what the file is: "full-integer", or "dynamic-range" without pictures.
    """

    trained: Any
    input: Input
    extractor: bytes | None = None
    calibration: str = ""


def cut(model: Any, input: Input, pictures: npt.NDArray[np.float32] | None = None) -> Cut:
    """Convert what is frozen of a transfer model.

    Args:
        pictures: float32 [N, *input.shape], on which activations are ranged.

    Raises:
        ExportError: the frozen part cannot be converted.
    """
    if not isinstance(input, ImageInput) or not is_transfer(model):
        return Cut(model, input)
    frozen, head = parts(model)
    made = export_extractor(frozen, pictures)
    digest = hashlib.sha256(made.tflite).hexdigest()
    steps = FeatureInput(picture=input, extractor=digest, features=int(frozen.output_shape[-1]))
    return Cut(head, steps, made.tflite, made.calibration)


def parts(model: Any) -> tuple[Any, Any]:
    """The frozen part, pictures to features, and the head, features to probabilities; they share weights."""
    tensorflow()
    keras = importlib.import_module("tf_keras")
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
