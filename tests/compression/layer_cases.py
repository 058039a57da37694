"""Small networks, one or more for every supported layer, and how several become branches of one model.

A conversion costs about two seconds whatever is in it, so cases with the same input are compiled together:
their logits are added up, and each case's weights keep gradients of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pytest

from compression.trainable.variables import leaf_layers, travelling_variables

tf_keras = pytest.importorskip("tf_keras")
tf = pytest.importorskip("tensorflow")
layers = tf_keras.layers
Make = Callable[[], Any]  # a new layer
Case = Callable[[Any], Any]  # of Keras' symbolic input


def stack(*make: Make) -> Case:
    """Layers one behind the other."""
    return lambda x: reduce(lambda y, one: one()(y), make, x)


def _around(*make: Make) -> Case:
    """Layers behind a conv, so that a gradient flows through them."""
    return stack(lambda: layers.Conv2D(4, 3, padding="same"), *make)


def _between(*make: Make) -> Case:
    """The same for rows."""
    return stack(lambda: layers.Dense(8), *make)


def _conv(*arguments: Any, **options: Any) -> Make:
    return lambda: layers.Conv2D(*arguments, **options)


def _depthwise(*arguments: Any, **options: Any) -> Make:
    return lambda: layers.DepthwiseConv2D(*arguments, **options)


def _frozen_norm() -> Any:
    norm = layers.BatchNormalization()
    norm.trainable = False
    return norm


def _joined(x: Any) -> Any:
    """Add, Multiply and Concatenate, with a squeeze-and-excite block."""
    a = layers.Conv2D(4, 3, padding="same")(x)
    b = layers.Conv2D(4, 1, activation="tanh")(x)
    x = layers.Add()([a, b, layers.Multiply()([a, b])])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Dense(2, activation="relu")(gate)
    gate = layers.Dense(4, activation="sigmoid")(gate)
    x = layers.Concatenate()([layers.Multiply()([x, gate]), b])
    return layers.GlobalMaxPooling2D()(x)


def _broadcast(x: Any) -> Any:
    """Gates of fewer axes or of one channel, from either side; Add of a row to pictures."""
    x = layers.Conv2D(4, 3)(x)
    channels = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    places = layers.Conv2D(1, 1, activation="sigmoid")(x)
    return layers.Add()([layers.Multiply()([channels, x]), layers.Multiply()([x, places]), channels])


def _nested(x: Any) -> Any:
    """A model inside a model, and a ReLU that two layers read before a pool."""
    inner_input = layers.Input((4, 4, 3))
    inner = tf_keras.Model(inner_input, layers.Conv2D(3, 3, padding="same", activation="relu")(inner_input))
    x = layers.ReLU()(layers.Conv2D(3, 3, padding="same")(x))
    return layers.Concatenate()([inner(layers.MaxPooling2D(2)(x)), layers.AveragePooling2D(2)(x)])


def _used_twice(x: Any) -> Any:
    """A layer, and a model, whose gradients add up."""
    conv = layers.Conv2D(4, 3, padding="same", activation="relu")
    x = conv(layers.Conv2D(4, 1)(x))
    inner = tf_keras.Sequential([layers.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same")])
    return layers.Add()([inner(conv(x)), inner(x)])


def _norm_used_twice(x: Any) -> Any:
    """Its statistics move at each use."""
    norm = layers.BatchNormalization(momentum=0.7)
    return norm(layers.Conv2D(3, 3, activation="relu")(norm(layers.Conv2D(3, 1)(x))))


def _as_in_inference(x: Any) -> Any:
    """Layers that the graph calls with training=False: moving statistics, which stay, and no dropout."""
    inner_input = layers.Input((9, 17, 3))
    inner = layers.Dropout(0.4)(layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same")(inner_input)))
    x = tf_keras.Model(inner_input, inner)(x, training=False)
    return layers.BatchNormalization()(layers.Conv2D(3, 3)(x), training=False)


def hard_swish(x: Any) -> Any:
    """As in MobileNetV3 (Howard et al., 2019); Keras 2 has no name for it."""
    return x * tf.nn.relu6(x + 3.0) / 6.0


ACTIVATIONS = ["relu", "relu6", "swish", "gelu", "tanh", "sigmoid", "hard_sigmoid", "softmax", hard_swish]

EVEN: Mapping[str, Case] = {
    "conv_same": stack(_conv(4, 3, padding="same")),
    "conv_even_kernel": _around(_conv(5, (2, 4), padding="same")),
    "conv_stride_2": _around(_conv(5, 3, 2, "same")),
    "conv_stride_2_valid": _around(_conv(5, 3, 2, "valid")),
    "conv_stride_2_wide": _around(_conv(16, 3, padding="same"), _conv(32, 3, 2, "same")),
    "conv_wide": _around(_conv(24, 3, padding="same", activation="relu"), _conv(24, 3), _conv(33, 3)),
    "conv_after_conv": _around(_conv(5, 5, padding="same", activation="relu")),
    "depthwise_multiplier": _around(_depthwise(3, depth_multiplier=2)),
    "separable_stride": _around(
        lambda: layers.SeparableConv2D(3, 3, 2, "same", depth_multiplier=2),
        lambda: layers.Activation("gelu"),
    ),
    "separable": _around(lambda: layers.SeparableConv2D(6, 3, padding="same", activation="swish")),
    "dense_on_pictures": _around(lambda: layers.Dense(5, activation="relu")),
    "max_pool": _around(layers.ReLU, lambda: layers.MaxPooling2D(2)),
    "max_pool_activated": stack(
        _conv(4, 3, padding="same", activation="relu6"), lambda: layers.MaxPooling2D(2)
    ),
    "depthwise_strides_3_2": _around(_depthwise((2, 3), (3, 2), "same", depth_multiplier=2)),
    "separable_valid": _around(lambda: layers.SeparableConv2D(3, 3, 2, "valid", depth_multiplier=3)),
    "regularised": _around(
        _conv(3, 3, kernel_regularizer="l1", bias_regularizer="l2"),
        _depthwise(2, depthwise_regularizer=tf_keras.regularizers.L2(0.03)),
        lambda: layers.SeparableConv2D(
            2, 2, depthwise_regularizer="l1_l2", pointwise_regularizer=tf_keras.regularizers.L1(0.02)
        ),
    ),
    "batch_norm": _around(layers.BatchNormalization, layers.ReLU),
    "batch_norm_bare": _around(lambda: layers.BatchNormalization(scale=False, center=False)),
    "batch_norm_regularised": _around(
        lambda: layers.BatchNormalization(gamma_regularizer="l2", beta_regularizer="l1")
    ),
    "batch_norm_partly_frozen": stack(
        _conv(4, 3, trainable=False), layers.BatchNormalization, layers.ReLU, _conv(3, 3), _frozen_norm
    ),
    "batch_norm_strided": stack(
        _conv(4, 3, 2, "same", use_bias=False), layers.BatchNormalization, _conv(6, 1, 2)
    ),
    "joined": _joined,
    "broadcast": _broadcast,
    "nested": _nested,
    "used_twice": _used_twice,
    "relu_of_equal_places": _around(layers.ReLU, layers.GlobalMaxPooling2D),
}
ODD: Mapping[str, Case] = {
    "conv_valid": stack(_conv(4, 3)),
    "conv_strides_3_1": _around(_conv(5, 3, (3, 1), "same")),
    "conv_one_by_one": _around(_conv(6, 1, use_bias=False, activation="relu"), _conv(6, 1, 2)),
    "conv_stride_2": _around(_conv(5, 3, 2, "same"), _conv(5, 2, 2, "valid")),
    "conv_smaller_than_its_stride": _around(_conv(3, 2, 3, "same"), _conv(3, 1, (2, 3))),
    "conv_of_the_whole_picture": _around(_conv(3, (9, 17))),
    "depthwise": _around(_depthwise(3, padding="same", activation="relu6")),
    "depthwise_stride": _around(_depthwise(3, 2, "same"), _depthwise(2, 2, "valid")),
    "layer_norm_of_pictures": _around(lambda: layers.LayerNormalization(epsilon=1e-2)),
    "layer_norm_of_whole_examples": _around(lambda: layers.LayerNormalization(axis=[1, 2, 3], epsilon=1e-2)),
    "layer_norm_of_places": _around(lambda: layers.LayerNormalization(axis=(2, 1), epsilon=1e-2)),
    "max_pool": _around(lambda: layers.MaxPooling2D(2)),
    "max_pool_overlapping": _around(lambda: layers.MaxPooling2D(3, 2, "same")),
    "max_pool_strides_1_2": _around(lambda: layers.MaxPooling2D((3, 1), (1, 2), "same")),
    "max_pool_with_gaps": _around(lambda: layers.MaxPooling2D(3, 4)),
    "max_pool_same": _around(layers.ReLU, lambda: layers.MaxPooling2D(2, padding="same")),
    "average_pool": _around(lambda: layers.AveragePooling2D(2)),
    "average_pool_overlapping": _around(lambda: layers.AveragePooling2D(3, 2, "same")),
    "average_pool_strides_3_1": _around(lambda: layers.AveragePooling2D((2, 3), (3, 1))),
    "softmax_of_places": _around(lambda: layers.Softmax(axis=3), _conv(2, 3)),
    "joined_in_rows": lambda x: layers.Concatenate(axis=1)([layers.Conv2D(3, 3, padding="same")(x), x]),
    "global_average": stack(_conv(4, 3), layers.GlobalAveragePooling2D),
    "upsampling_and_padding": _around(
        lambda: layers.UpSampling2D((2, 3)),
        lambda: layers.ZeroPadding2D(((1, 0), (2, 1))),
        _conv(3, 3),
        lambda: layers.Reshape((-1, 3)),
    ),
    "batch_norm_frozen": _around(_frozen_norm),
    "batch_norm_used_twice": _norm_used_twice,
    "batch_norm_as_in_inference": _as_in_inference,
}
ROWS: Mapping[str, Case] = {
    "dense_stack": stack(lambda: layers.Dense(9, activation="relu"), lambda: layers.Dense(5)),
    "relu_right_behind_a_product": stack(  # the converter loses it behind tf.matmul
        lambda: layers.Dense(9, activation="relu", use_bias=False),
        lambda: layers.Dense(8, use_bias=False),
        lambda: layers.ReLU(6.0),
    ),
    **{
        f"activation_{getattr(kind, '__name__', kind)}": _between(
            lambda: layers.Dense(8, kernel_initializer="glorot_normal"),
            lambda kind=kind: layers.Activation(kind),
        )
        for kind in ACTIVATIONS
    },
    "leaky_relu": _between(lambda: layers.LeakyReLU(0.2), lambda: layers.ReLU(negative_slope=0.1)),
    "softmax_layer": _between(layers.Softmax),
    "layer_norm": _between(layers.LayerNormalization),
    "layer_norm_bare": _between(lambda: layers.LayerNormalization(scale=False, center=False, epsilon=1e-2)),
    "batch_norm": _between(lambda: layers.BatchNormalization(scale=False), layers.ReLU),
    "batch_norm_of_steps": stack(
        lambda: layers.Dense(6),
        lambda: layers.Reshape((2, 3)),
        layers.BatchNormalization,
        lambda: layers.Dense(4),
    ),
    "l2": stack(
        lambda: layers.Dense(5, kernel_regularizer=tf_keras.regularizers.L2(0.03)),
        lambda: layers.Dense(1, kernel_regularizer=tf_keras.regularizers.L1L2(0.01, 0.02)),
    ),
}
GROUPS: Mapping[str, tuple[tuple[int, ...], Mapping[str, Case]]] = {
    "even": ((8, 8, 1), EVEN),
    "odd": ((9, 17, 3), ODD),  # wide enough for a product by rows
    "rows": ((7,), ROWS),
}


@dataclass(frozen=True)
class Branches:
    """One model of many cases.

    Attributes:
        owner: the case that each weight belongs to, by the name of the spec.
    """

    model: Any
    owner: dict[str, str]


def branches(shape: tuple[int, ...], cases: Mapping[str, Case], seed: int = 3) -> Branches:
    """A model whose logit is the sum of what each case comes to."""
    tf_keras.utils.set_random_seed(seed)
    inputs = layers.Input(shape)
    made = {name: _branch(shape, case) for name, case in cases.items()}
    logits = [branch(inputs) for branch in made.values()]
    model = tf_keras.Model(inputs, layers.Add()(logits) if len(logits) > 1 else logits[0])
    shake(model, seed)
    case_of = {id(layer): name for name, branch in made.items() for layer in leaf_layers(branch)}
    return Branches(model, {item.spec.name: case_of[id(item.layer)] for item in travelling_variables(model)})


def _branch(shape: tuple[int, ...], case: Case) -> Any:
    inputs = layers.Input(shape)
    x = case(inputs)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    # small, so that the sum of all branches saturates no sigmoid
    logit = layers.Dense(1, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.05))(x)
    return tf_keras.Model(inputs, logit)


def shake(model: Any, seed: int) -> None:
    """Move vectors off their initial zeros and ones, where mistakes hide."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.shape.rank == 1:
            variable.assign_add(rng.uniform(0.1, 0.5, variable.shape))
