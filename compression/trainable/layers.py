"""Which Keras layers train on a device, and what each becomes.

A `LayerRule` says why a particular layer cannot be compiled (or None) and lowers it to the primitives of this
package. Rules go by the exact class name, so that a user's subclass with its own ``call`` is refused rather
than compiled as its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import tensorflow as tf

from compression.trainable import normalisation, pooling
from compression.trainable.activations import ACTIVATIONS, leaky_relu, relu, relu6, softmax
from compression.trainable.convolutions import add_bias, conv2d, dense, depthwise_conv2d
from compression.trainable.shapes import pad

Tensor = Any
Layer = Any
Parameters = Mapping[str, Tensor]
PROBE_TOLERANCE = 1e-4  # of functions with values up to 9; GELU's error function alone differs by 1e-7


@dataclass(slots=True)
class Pass:
    """One trip through the network.

    Attributes:
        training: batch statistics and dropout, or moving statistics and none.
        mask: [B], 1 for an example and 0 for padding.
        uniform: [B, n] numbers from [0, 1) for dropout, consumed from the left.
        statistics: new moving statistics by (layer, variable), filled on the way.
        drawn: how many of `uniform`'s columns are used up.
    """

    training: bool
    mask: Tensor = None
    uniform: Tensor = None
    statistics: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    drawn: int = 0

    def draw(self, shape: Any) -> Tensor:
        """Uniform numbers of `shape`, the first axis being the batch."""
        count = 1
        for extent in shape[1:]:
            count *= int(extent)
        start, self.drawn = self.drawn, self.drawn + count
        return tf.reshape(self.uniform[:, start : start + count], shape)


Lower = Callable[[Layer, Any, Parameters, Pass], Tensor]
Check = Callable[[Layer], str | None]


@dataclass(frozen=True, slots=True)
class LayerRule:
    """How one class of layers is compiled."""

    lower: Lower
    check: Check = lambda _layer: None


RULES: dict[str, LayerRule] = {}


def _rule(*names: str, check: Check = lambda _layer: None) -> Callable[[Lower], Lower]:
    def register(lower: Lower) -> Lower:
        RULES.update(dict.fromkeys(names, LayerRule(lower, check)))
        return lower

    return register


def activation_name(layer: Layer) -> str:
    """Name of the layer's activation function; "linear" for none."""
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else str(getattr(activation, "__name__", activation))


def _check_activation(layer: Layer) -> str | None:
    activation, name = getattr(layer, "activation", None), activation_name(layer)
    if hasattr(activation, "get_config"):
        return f"activation {type(activation).__name__} is a layer: put it behind this one"
    if name not in ACTIVATIONS:
        return f"activation {name!r} has no gradient in builtin ops: use one of {', '.join(ACTIVATIONS)}"
    if activation is not None and not _as_named(activation, name):
        return f"activation {name!r} computes something else than its name says: use Keras' own by the name"
    return None


def _as_named(activation: Callable[[Tensor], Tensor], name: str) -> bool:
    """A user's function goes by its name, so it must be that function."""
    probe = tf.reshape(tf.linspace(-9.0, 9.0, 61), [1, -1])
    difference = tf.abs(tf.convert_to_tensor(activation(probe)) - ACTIVATIONS[name](probe))
    return float(tf.reduce_max(difference)) < PROBE_TOLERANCE


def _check_image(layer: Layer) -> str | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "data_format channels_first: use channels_last"
    if any(rate != 1 for rate in _pair(getattr(layer, "dilation_rate", 1))):
        return "dilation_rate above 1: use a larger kernel or a pool"
    if getattr(layer, "groups", 1) != 1:
        return "groups above 1: use DepthwiseConv2D or SeparableConv2D"
    return _check_activation(layer)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def finish(layer: Layer, x: Tensor, parameters: Parameters) -> Tensor:
    """Bias and activation."""
    if "bias" in parameters:
        x = add_bias(x, parameters["bias"])
    return ACTIVATIONS[activation_name(layer)](x)


@_rule("Conv2D", check=_check_image)
def _conv2d(layer: Layer, x: Tensor, parameters: Parameters, _pass: Pass) -> Tensor:
    y = conv2d(x, parameters["kernel"], _pair(layer.strides), layer.padding)
    return finish(layer, y, parameters)


@_rule("DepthwiseConv2D", check=_check_image)
def _depthwise(layer: Layer, x: Tensor, parameters: Parameters, _pass: Pass) -> Tensor:
    y = depthwise_conv2d(x, parameters["depthwise_kernel"], _pair(layer.strides), layer.padding)
    return finish(layer, y, parameters)


@_rule("SeparableConv2D", check=_check_image)
def _separable(layer: Layer, x: Tensor, parameters: Parameters, _pass: Pass) -> Tensor:
    y = depthwise_conv2d(x, parameters["depthwise_kernel"], _pair(layer.strides), layer.padding)
    return finish(layer, conv2d(y, parameters["pointwise_kernel"], (1, 1), "VALID"), parameters)


@_rule("Dense", check=_check_activation)
def _dense(layer: Layer, x: Tensor, parameters: Parameters, _pass: Pass) -> Tensor:
    return finish(layer, dense(x, parameters["kernel"]), parameters)


@_rule("Activation", check=_check_activation)
def _activation(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return ACTIVATIONS[activation_name(layer)](x)


def _check_relu(layer: Layer) -> str | None:
    limit = None if layer.max_value is None else float(layer.max_value)
    slope = float(layer.negative_slope)
    if float(layer.threshold) or limit not in (None, 6.0) or (slope and limit):
        return "threshold and max_value other than 6: use ReLU(), ReLU(max_value=6) or LeakyReLU()"
    return None if 0.0 <= slope <= 1.0 else f"negative_slope {slope}: use one from 0 to 1"


@_rule("ReLU", check=_check_relu)
def _relu(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    if float(layer.negative_slope):
        return leaky_relu(float(layer.negative_slope))(x)
    return relu6(x) if layer.max_value is not None else relu(x)


def _check_slope(layer: Layer) -> str | None:
    return None if 0.0 <= float(layer.alpha) <= 1.0 else f"alpha {layer.alpha}: use one from 0 to 1"


@_rule("LeakyReLU", check=_check_slope)
def _leaky(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return leaky_relu(float(layer.alpha))(x)


def _rank(layer: Layer) -> int:
    """Axes of its input, where it is used first."""
    return len(layer.get_input_shape_at(0))


def _check_softmax(layer: Layer) -> str | None:
    axes = list(layer.axis) if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return None if axes in ([-1], [_rank(layer) - 1]) else f"axis {layer.axis}: use axis -1"


@_rule("Softmax", check=_check_softmax)
def _softmax(_layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return softmax(x)


@_rule("MaxPooling2D", check=_check_image)
def _max_pool(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return pooling.max_pool(x, _pair(layer.pool_size), _pair(layer.strides), layer.padding)


@_rule("AveragePooling2D", check=_check_image)
def _average_pool(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return pooling.average_pool(x, _pair(layer.pool_size), _pair(layer.strides), layer.padding)


def _global(pool: Callable[[Tensor], Tensor]) -> Lower:
    def lower(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
        y = pool(x)
        return tf.reshape(y, [x.shape[0], 1, 1, x.shape[3]]) if layer.keepdims else y

    return lower


_rule("GlobalAveragePooling2D", check=_check_image)(_global(pooling.global_average_pool))
_rule("GlobalMaxPooling2D", check=_check_image)(_global(pooling.global_max_pool))


@_rule("ZeroPadding2D", check=_check_image)
def _zero_padding(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    rows, columns = layer.padding
    return pad(x, tuple(rows), tuple(columns))


def _check_upsampling(layer: Layer) -> str | None:
    if layer.interpolation != "nearest":
        return f"interpolation {layer.interpolation!r}: use 'nearest'"
    return _check_image(layer)


@_rule("UpSampling2D", check=_check_upsampling)
def _upsampling(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return pooling.upsample(x, _pair(layer.size))


def _check_batch_norm(layer: Layer) -> str | None:
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    if axis != _rank(layer) - 1:
        return f"axis {axis}: normalise the last axis"
    if getattr(layer, "renorm", False) or getattr(layer, "_virtual_batch_size", None):
        return "renorm and virtual_batch_size: use plain BatchNormalization or LayerNormalization"
    return None


@_rule("BatchNormalization", check=_check_batch_norm)
def _batch_norm(layer: Layer, x: Tensor, parameters: Parameters, state: Pass) -> Tensor:
    mean, variance = parameters["moving_mean"], parameters["moving_variance"]
    gamma = parameters.get("gamma", tf.ones_like(mean))
    beta = parameters.get("beta", tf.zeros_like(mean))
    if not state.training or not layer.trainable:
        return normalisation.affine_normalise(
            x, gamma, beta, mean=mean, variance=variance, epsilon=layer.epsilon
        )
    y, count, batch_mean, batch_variance = normalisation.batch_normalise(
        x, gamma, beta, state.mask, layer.epsilon
    )
    if layer.fused:  # Keras' fused kernel keeps the unbiased variance, the other the biased one
        batch_variance *= count / tf.maximum(count - 1.0, 1.0)
    for name, given, new in (
        ("moving_mean", mean, batch_mean),
        ("moving_variance", variance, batch_variance),
    ):
        old = state.statistics.get((layer.name, name), given)  # of a layer used twice, after its first use
        state.statistics[layer.name, name] = old + (new - old) * (1.0 - layer.momentum)
    return y


def _layer_norm_axes(layer: Layer, rank: int) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return sorted(int(axis) % rank for axis in axes)


@_rule("LayerNormalization")
def _layer_norm(layer: Layer, x: Tensor, parameters: Parameters, _pass: Pass) -> Tensor:
    axes = _layer_norm_axes(layer, len(x.shape))
    extents = [extent if axis in axes else 1 for axis, extent in enumerate(x.shape)]
    gamma = tf.reshape(parameters["gamma"], extents) if "gamma" in parameters else tf.ones(extents)
    beta = tf.reshape(parameters["beta"], extents) if "beta" in parameters else tf.zeros(extents)
    return normalisation.layer_normalise(x, gamma, beta, layer.epsilon, axes)


def _check_dropout(layer: Layer) -> str | None:
    return None if layer.noise_shape is None else "noise_shape: leave it None"


@_rule("Dropout", check=_check_dropout)
def _dropout(layer: Layer, x: Tensor, _parameters: Parameters, state: Pass) -> Tensor:
    rate = float(layer.rate)
    if not state.training or not rate:
        return x
    kept = tf.cast(state.draw(x.shape) >= rate, tf.float32) * (1.0 / (1.0 - rate))
    return x * tf.stop_gradient(kept)


@_rule("Flatten", check=_check_image)
def _flatten(_layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return tf.reshape(x, [x.shape[0], -1])


@_rule("Reshape")
def _reshape(layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return tf.reshape(x, [x.shape[0], *layer.target_shape])


@_rule("Add")
def _add(_layer: Layer, xs: Any, _parameters: Parameters, _pass: Pass) -> Tensor:
    return _fold(tf.add, xs)


@_rule("Multiply")
def _multiply(_layer: Layer, xs: Any, _parameters: Parameters, _pass: Pass) -> Tensor:
    return _fold(tf.multiply, xs)


def _fold(combine: Callable[[Tensor, Tensor], Tensor], xs: Any) -> Tensor:
    """As Keras merges: axes that one input lacks are put in behind the batch."""
    rank = max(len(x.shape) for x in xs)
    return reduce(
        combine, [tf.reshape(x, [x.shape[0], *[1] * (rank - len(x.shape)), *x.shape[1:]]) for x in xs]
    )


@_rule("Concatenate")
def _concatenate(layer: Layer, xs: Any, _parameters: Parameters, _pass: Pass) -> Tensor:
    return tf.concat(xs, axis=layer.axis)


@_rule("InputLayer")
def _input(_layer: Layer, x: Tensor, _parameters: Parameters, _pass: Pass) -> Tensor:
    return x


INSTEAD: Mapping[str, str] = {
    "Conv1D": "Conv2D over a Reshape to one row",
    "Conv3D": "Conv2D over slices",
    "Conv2DTranspose": "UpSampling2D followed by Conv2D",
    "SimpleRNN": "Flatten and Dense over the window",
    "LSTM": "Flatten and Dense over the window",
    "GRU": "Flatten and Dense over the window",
    "Embedding": "Dense over one-hot columns",
    "PReLU": "LeakyReLU",
    "ELU": "Activation('swish')",
    "ThresholdedReLU": "ReLU",
    "SpatialDropout2D": "Dropout",
    "GaussianNoise": "the augmentation of the model's spec",
    "GaussianDropout": "Dropout",
    "AlphaDropout": "Dropout",
    "GroupNormalization": "LayerNormalization or BatchNormalization",
    "UnitNormalization": "LayerNormalization",
    "Rescaling": "scale and offset of ImageInput, which training and prediction share",
    "Normalization": "center and spread of TableInput, which training and prediction share",
    "Resizing": "height and width of ImageInput",
    "RandomFlip": "Augmentation(horizontal_flip=True) in the spec",
    "RandomRotation": "Augmentation(rotation_degrees=...) in the spec",
    "RandomTranslation": "Augmentation(shift=...) in the spec",
    "RandomBrightness": "Augmentation(brightness=...) in the spec",
    "Subtract": "Add",
    "Average": "Add",
    "Lambda": "the layers it is made of",
    "TFOpLambda": "a layer, such as Add() for + and Multiply() for *",
    "SlicingOpLambda": "a layer with padding='valid', such as Conv2D or MaxPooling2D",
    "Cropping2D": "a layer with padding='valid', such as Conv2D or MaxPooling2D",
    "ActivityRegularization": "the kernel_regularizer of a layer",
    "Identity": "nothing in its place",
    "TimeDistributed": "the layer itself on a picture whose rows are the steps",
    "MultiHeadAttention": "a squeeze-and-excite block of GlobalAveragePooling2D, Dense and Multiply",
}


def problem_of(layer: Layer) -> str | None:
    """Why the layer cannot be trained on a device, with what to use instead; None if it can."""
    kind = type(layer).__name__
    rule = RULES.get(kind)
    if rule is None or not type(layer).__module__.startswith("tf_keras."):
        instead = INSTEAD.get(kind, f"one of {', '.join(sorted(RULES))}")
        return f"{kind} is not supported: use {instead}"
    for dtype in (layer.compute_dtype, layer.dtype):
        if dtype != "float32":
            return f"dtype {dtype}: use float32, the program trains in nothing else"
    for attribute, value in vars(layer).items():
        if attribute.endswith("_constraint") and value is not None:
            return f"{attribute} is not supported: use a regulariser"
        if attribute == "activity_regularizer" and value is not None:
            return "activity_regularizer is not supported: use a kernel_regularizer"
    if getattr(layer, "_activity_regularizer", None) is not None:
        return "activity_regularizer is not supported: use a kernel_regularizer"
    return rule.check(layer)
