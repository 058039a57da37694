"""A model whose every answer is known: bright pictures are class "bright", by how much over one half."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput, ModelSpec, TableInput, TensorSpec
from edge_client.data import LocalData

SHAPE = (4, 4, 1)
CLASSES = ("dark", "bright")
TENSORS = (TensorSpec(name="dense/kernel", shape=(16, 1)), TensorSpec(name="dense/bias", shape=(1,)))
SPEC = ModelSpec(
    name="brightness", input=ImageInput(height=4, width=4), classes=CLASSES, tensors=TENSORS, batch_size=4
)
TABLE_SPEC = ModelSpec(
    name="rows",
    input=TableInput(columns=("a", "b"), center=(1.0, 0.0), spread=(2.0, 1.0)),
    classes=CLASSES,
    tensors=TENSORS,
)


def probability_bright(mean: float) -> float:
    """What the model says of a picture with this mean pixel, 0 to 1."""
    return 1 / (1 + math.exp(-8 * (mean - 0.5)))


@lru_cache
def brightness_model(*, sign: float = 1.0) -> bytes:
    """The TFLite file; with sign -1 it is always wrong, with nan it answers nan."""
    return _export(SHAPE, np.full((16, 1), sign * 8 / 16, np.float32), -4.0 * sign)


@lru_cache
def table_model() -> bytes:
    """Bright where the scaled columns add up to more than 0."""
    return _export((2,), np.ones((2, 1), np.float32), 0.0)


def _export(shape: tuple[int, ...], kernel: npt.NDArray[np.float32], bias: float) -> bytes:
    import tf_keras
    from tf_keras import layers

    from compression.models.export import export_model

    model: Any = tf_keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(1, name="dense")])
    model.get_layer("dense").set_weights([kernel, np.array([bias], np.float32)])
    return export_model(model, classes=2, recipe="float32").tflite


def local_data(pixels: list[int], labels: list[int]) -> LocalData:
    """Uniform pictures, all of them for validation."""
    inputs = np.broadcast_to(np.array(pixels, np.uint8)[:, None, None, None], (len(pixels), *SHAPE)).copy()
    index = np.arange(len(pixels))
    empty = index[:0]
    return LocalData(inputs, np.array(labels, np.int32), CLASSES, empty, index, empty, 0)
