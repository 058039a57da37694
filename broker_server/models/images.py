"""Networks for pictures, small enough to train on a Pi.

They end in a sigmoid for two classes and in a softmax for more, so that the Keras model predicts
probabilities as it stands; the compiler takes the logits before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tf_keras
from tf_keras import layers


def output_layer(classes: int) -> Any:
    """One sigmoid for two classes, a softmax for more."""
    if classes == 2:
        return layers.Dense(1, activation="sigmoid", name="output")
    return layers.Dense(classes, activation="softmax", name="output")


def small_cnn(input_shape: Sequence[int], classes: int) -> Any:
    """Three conv blocks of 8, 16 and 32 channels, each halved by a max pool; dense 32."""
    steps = [layers.Input(tuple(input_shape))]
    for block, channels in enumerate((8, 16, 32), start=1):
        steps += [
            layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv{block}"),
            layers.MaxPooling2D(2, name=f"pool{block}"),
        ]
    steps += [
        layers.Flatten(name="flatten"),
        layers.Dense(32, activation="relu", name="dense"),
        output_layer(classes),
    ]
    return tf_keras.Sequential(steps, name="small_cnn")


def small_cnn_frozen(input_shape: Sequence[int], classes: int) -> Any:
    """`small_cnn` with another conv and another dense layer; the first two blocks are frozen.

    For going on from a model that was trained before: frozen layers are neither trained nor sent.
    """
    steps = [layers.Input(tuple(input_shape))]
    for block, channels in enumerate((8, 16, 32, 32), start=1):
        steps += [
            layers.Conv2D(
                channels, 3, padding="same", activation="relu", name=f"conv{block}", trainable=block > 2
            ),
            layers.MaxPooling2D(2, name=f"pool{block}"),
        ]
    steps += [
        layers.Flatten(name="flatten"),
        layers.Dense(64, activation="relu", name="dense1"),
        layers.Dense(32, activation="relu", name="dense2"),
        output_layer(classes),
    ]
    return tf_keras.Sequential(steps, name="small_cnn_frozen")


def mobile_cnn(input_shape: Sequence[int], classes: int) -> Any:
    """Depthwise separable blocks with ReLU6 and batch norm (Howard et al., "MobileNets", 2017)."""

    def normalised(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        return layers.ReLU(6.0, name=f"{name}_relu6")(x)

    inputs = layers.Input(tuple(input_shape))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(inputs)
    x = normalised(x, "stem")
    for block, (channels, stride) in enumerate(((16, 1), (32, 2), (32, 1), (64, 2)), start=1):
        x = layers.DepthwiseConv2D(
            3, strides=stride, padding="same", use_bias=False, name=f"depthwise{block}"
        )(x)
        x = normalised(x, f"depthwise{block}")
        x = layers.Conv2D(channels, 1, use_bias=False, name=f"pointwise{block}")(x)
        x = normalised(x, f"pointwise{block}")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return tf_keras.Model(inputs, output_layer(classes)(x), name="mobile_cnn")


def residual_cnn(input_shape: Sequence[int], classes: int) -> Any:
    """Three residual stages of 16, 32 and 64 channels (He et al., "Deep Residual Learning", 2016)."""

    def conv(x: Any, channels: int, size: int, stride: int, name: str) -> Any:
        x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False, name=name)(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)

    inputs = layers.Input(tuple(input_shape))
    x = layers.ReLU(name="stem_relu")(conv(inputs, 16, 3, 2, "stem"))
    for stage, channels in enumerate((16, 32, 64), start=1):
        stride = 1 if stage == 1 else 2
        y = layers.ReLU(name=f"stage{stage}_relu1")(conv(x, channels, 3, stride, f"stage{stage}_conv1"))
        y = conv(y, channels, 3, 1, f"stage{stage}_conv2")
        if stage > 1:
            x = conv(x, channels, 1, stride, f"stage{stage}_shortcut")
        x = layers.ReLU(name=f"stage{stage}_relu2")(layers.Add(name=f"stage{stage}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return tf_keras.Model(inputs, output_layer(classes)(x), name="residual_cnn")
