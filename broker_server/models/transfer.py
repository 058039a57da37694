"""Transfer models: a frozen backbone that others trained, and a small head that the devices train.

The whole is one Keras graph, pictures in and probabilities out, that `compression.models.cutting` cuts at the
layer "features". Behind it: dropout 0.3, dense 32, softmax.

Backbones take their input in different ways. All of them get pictures from 0 to 1 here, and a fixed 1x1
convolution makes of them what each was trained on, so that devices need to know nothing about it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from tf_keras import layers

from broker_server.models.errors import ModelError
from broker_server.models.zoo import RANDOM
from compression.models.cutting import CUT

IMAGENET = "imagenet"

SWAPPED = ((0.0, 0.0, 255.0), (0.0, 255.0, 0.0), (255.0, 0.0, 0.0))  # red, green, blue to blue, green, red
CAFFE_MEANS = (-103.939, -116.779, -123.68)  # of ImageNet, blue, green, red
NO_OFFSET = (0.0, 0.0, 0.0)


def _scaled(by: float) -> tuple[tuple[float, ...], ...]:
    return ((by, 0.0, 0.0), (0.0, by, 0.0), (0.0, 0.0, by))


@dataclass(frozen=True, slots=True)
class Backbone:
    """How one of Keras' networks is made and fed.

    Attributes:
        function: its name in `tf_keras.applications`.
        matrix, offset: from (red, green, blue) in 0 to 1 to what it was trained on.
    """

    function: str
    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]


BACKBONES: Mapping[str, Backbone] = {
    "efficientnet_v2s": Backbone("EfficientNetV2S", _scaled(255.0), NO_OFFSET),
    "efficientnet_b0": Backbone("EfficientNetB0", _scaled(255.0), NO_OFFSET),
    "mobilenet_v2": Backbone("MobileNetV2", _scaled(2.0), (-1.0, -1.0, -1.0)),
    "resnet50": Backbone("ResNet50", SWAPPED, CAFFE_MEANS),
    "vgg16": Backbone("VGG16", SWAPPED, CAFFE_MEANS),
}


def transfer_model(name: str, weights: str, input_shape: Sequence[int], classes: int) -> Any:
    """The whole network; everything up to "features" is frozen.

    Args:
        name: of `BACKBONES`.
        weights: "imagenet" for Keras' own, which are downloaded once; a file of weights without top; or
            "random", for a dry run that learns nothing.

    Raises:
        ModelError: the weights cannot be had or do not fit; the message says what to do.
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ModelError(f"{name} takes pictures of 1 or 3 channels, not {shape}")
    backbone = BACKBONES[name]
    inputs = layers.Input(shape, name="picture")
    colours = layers.Concatenate(name="colours")([inputs] * 3) if shape[2] == 1 else inputs
    fed = layers.Conv2D(3, 1, name="feed")(colours)
    top = _backbone(name, backbone, weights, fed)
    features = layers.GlobalAveragePooling2D(name=CUT)(top.outputs[0])
    x = layers.Dropout(0.3, name="dropout")(features)
    x = layers.Dense(32, activation="relu", name="dense")(x)
    outputs = layers.Dense(classes, activation="softmax", name="output")(x)
    label = f"{name}_{RANDOM}" if weights == RANDOM else name
    model = tf_keras.Model(inputs, outputs, name=label)
    model.get_layer("feed").set_weights([np.array(backbone.matrix)[None, None], np.array(backbone.offset)])
    for layer in top.layers:
        layer.trainable = False
    return model


def __getattr__(name: str) -> Any:
    """``broker_server.models.transfer:vgg16@FILE``, for programs that take ``module:function``."""
    backbone, _, weights = name.partition("@")
    if backbone in BACKBONES:
        return partial(transfer_model, backbone, weights or IMAGENET)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _backbone(name: str, backbone: Backbone, weights: str, fed: Any) -> Any:
    if weights not in (RANDOM, IMAGENET) and not Path(weights).is_file():
        raise ModelError(
            f"{weights} is not a file: give {name}@FILE with weights without top, or {name}@random"
        )
    make = getattr(tf_keras.applications, backbone.function)
    try:
        with redirect_stdout(sys.stderr):  # Keras tells of its download where a program's JSON goes
            return make(include_top=False, weights=None if weights == RANDOM else weights, input_tensor=fed)
    except Exception as exc:  # a failed download raises Exception itself
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ModelError(
            f"{name} has no weights: {lines[0][:200]}; give a file without top as {name}@FILE, or "
            f"{name}@{RANDOM} for a dry run that learns nothing"
        ) from exc
