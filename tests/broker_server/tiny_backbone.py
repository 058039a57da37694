"""A backbone of two layers in MobileNetV2's place, where a test is not about the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.config import ModelConfig

NAME = "mobilenet_v2@random"
FEATURES = 16  # few, and a kernel of 1,152 numbers, which the converter makes int8
MODEL = ModelConfig(name=NAME, height=16, width=16, classes=("0", "1"), batch_size=8)
HEAD = FEATURES * 32 + 32 + 32 * 2 + 2  # parameters of dense 32 and a softmax of two


def tiny_backbone(*, include_top: bool, weights: str | None, input_tensor: Any) -> Any:
    """The interface of `tf_keras.applications`."""
    import tf_keras
    from tf_keras import layers

    assert not include_top and weights is None
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="tiny_conv")(input_tensor)
    x = layers.BatchNormalization(name="tiny_norm")(x)
    x = layers.Conv2D(FEATURES, 3, strides=2, activation="relu", name="tiny_top")(x)
    return tf_keras.Model(tf_keras.utils.get_source_inputs(input_tensor)[0], x)


def use_tiny_backbone(patch: pytest.MonkeyPatch) -> None:
    """`NAME` is the tiny one from here on, in this process."""
    import tf_keras

    patch.setattr(tf_keras.applications, "MobileNetV2", tiny_backbone)


def write_pictures(path: Path, count: int, seed: int = 0, side: int = 16) -> Path:
    """An npz of grey noise, half of it with a bright half: a random filter tells the classes apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pictures = rng.integers(0, 90, (count, side, side))
    pictures[labels == 1, : side // 2] += 160
    np.savez(path, images=pictures.astype(np.uint8), labels=labels)
    return path
