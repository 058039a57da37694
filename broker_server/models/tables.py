"""Networks for table rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tf_keras
from tf_keras import layers, regularizers

from broker_server.models.images import output_layer


def small_mlp(input_shape: Sequence[int], classes: int) -> Any:
    """Dense 32 and 16: enough for a few hundred rows."""
    steps = [
        layers.Input(tuple(input_shape)),
        layers.Dense(32, activation="relu", name="dense1"),
        layers.Dense(16, activation="relu", name="dense2"),
        output_layer(classes),
    ]
    return tf_keras.Sequential(steps, name="small_mlp")


def tabular_mlp(input_shape: Sequence[int], classes: int) -> Any:
    """Dense 512-256-128-64-32, each with batch norm and dropout, L2 on the kernels."""
    steps = [layers.Input(tuple(input_shape))]
    for block, units in enumerate((512, 256, 128, 64, 32), start=1):
        steps += [
            layers.Dense(units, kernel_regularizer=regularizers.L2(1e-4), name=f"dense{block}"),
            layers.BatchNormalization(momentum=0.9, name=f"norm{block}"),
            layers.ReLU(name=f"relu{block}"),
            layers.Dropout(0.3 if units > 64 else 0.2, name=f"dropout{block}"),
        ]
    return tf_keras.Sequential([*steps, output_layer(classes)], name="tabular_mlp")
