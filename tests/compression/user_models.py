"""Random models such as users write: plain and residual CNNs, depthwise ones, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras
from tf_keras import layers

EXTENTS = (28, 32, 48, 64, 80, 96, 112, 128)
KINDS = ("plain", "normalised", "depthwise", "residual", "mixed", "table")


def user_model(seed: int) -> tuple[Any, int]:
    """A model with one logit, and its batch size."""
    rng = np.random.default_rng(seed)
    tf_keras.utils.set_random_seed(seed)
    kind, batch = (
        str(rng.choice(KINDS, p=[0.25, 0.25, 0.15, 0.15, 0.15, 0.05])),
        int(rng.choice([4, 8, 16, 32])),
    )
    if kind == "table":
        return _table(rng), batch
    height = int(rng.choice(EXTENTS))
    width = height if rng.random() < 0.7 else height * 5 // 4
    if height * width * batch > 96 * 96 * 32:
        batch = max(4, batch // 4)
    return _pictures(rng, kind, (height, width, int(rng.choice([1, 3])))), batch


def _table(rng: np.random.Generator) -> Any:
    x = inputs = layers.Input((int(rng.choice([8, 30, 100, 400])),))
    for _ in range(rng.integers(1, 5)):
        x = layers.Dense(int(rng.choice([16, 64, 256, 512])), activation="relu")(x)
        x = layers.BatchNormalization()(x) if rng.random() < 0.5 else layers.Dropout(0.3)(x)
    return tf_keras.Model(inputs, layers.Dense(1)(x))


def _pictures(rng: np.random.Generator, kind: str, shape: tuple[int, int, int]) -> Any:
    x = inputs = layers.Input(shape)
    activation = str(rng.choice(["relu", "relu", "relu", "relu6", "swish", "tanh"]))
    channels = int(rng.choice([4, 8, 16, 24]))
    for _ in range(rng.integers(1, 5)):
        x = _block(rng, kind, x, channels, activation)
        if min(x.shape[1:3]) >= 8 and rng.random() < 0.7:
            x = layers.MaxPooling2D(2)(x) if rng.random() < 0.7 else layers.AveragePooling2D(2)(x)
        channels = min(64, channels * int(rng.choice([1, 2])))
    small = rng.random() < 0.5 and np.prod(x.shape[1:]) < 20_000
    x = layers.Flatten()(x) if small else layers.GlobalAveragePooling2D()(x)
    if rng.random() < 0.5:
        x = layers.Dense(int(rng.choice([16, 64])), activation=activation)(x)
    return tf_keras.Model(inputs, layers.Dense(1)(x))


def _block(rng: np.random.Generator, kind: str, x: Any, channels: int, activation: str) -> Any:
    size, stride = int(rng.choice([3, 3, 3, 5])), int(rng.choice([1, 1, 2]))
    kernel = {"kernel_size": size, "strides": stride, "padding": "same"}
    after = layers.Activation(activation)
    if kind == "plain":
        return after(layers.Conv2D(channels, **kernel)(x))
    if kind == "normalised":
        return after(layers.BatchNormalization()(layers.Conv2D(channels, use_bias=False, **kernel)(x)))
    if kind == "depthwise":
        x = layers.SeparableConv2D(channels, use_bias=False, **kernel)(x)
        return after(layers.BatchNormalization()(x) if rng.random() < 0.6 else x)
    x = layers.Conv2D(channels, **kernel)(x)
    if kind == "residual":
        y = layers.Conv2D(channels, size, padding="same", activation=activation)(x)
        return after(layers.Add()([x, layers.BatchNormalization()(y) if rng.random() < 0.5 else y]))
    x = after(layers.LayerNormalization()(x) if rng.random() < 0.3 else x)
    if rng.random() < 0.4:
        gate = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = layers.Multiply()([x, layers.Dense(channels, activation="sigmoid")(gate)])
    return layers.Dropout(0.2)(x) if rng.random() < 0.4 else x
