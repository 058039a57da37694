"""Activations whose gradients are written in ops that every TFLite runtime has.

TensorFlow differentiates ``Relu`` into ``ReluGrad``, ``Tanh`` into ``TanhGrad`` and so on; none of
those exists in TFLite without the Flex delegate, which no runtime on PyPI carries. Each function here
computes the activation and states its derivative in builtin ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any
Activation = Callable[[Tensor], Tensor]

# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| < 1.5e-7. TFLite has no ERF.
_ERF_P = 0.3275911
_ERF_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def _elementwise(forward: Activation, derivative: Callable[[Tensor, Tensor], Tensor]) -> Activation:
    """An activation from its value and its derivative as a function of (x, y)."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        y = forward(x)
        return y, lambda dy: dy * derivative(x, y)

    return apply  # type: ignore[no-any-return]


def _positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0; on tflite-runtime 9 times faster than a comparison and a cast (measured)."""
    return tf.sign(tf.nn.relu(x))


def _swish_derivative(x: Tensor, y: Tensor) -> Tensor:
    gate = tf.sigmoid(x)
    return gate + y * (1.0 - gate)


def erf(x: Tensor) -> Tensor:
    """The error function to 1.5e-7."""
    t = 1.0 / (1.0 + _ERF_P * tf.abs(x))
    polynomial = tf.zeros_like(x)
    for coefficient in _ERF_COEFFICIENTS:
        polynomial = (polynomial + coefficient) * t
    return tf.sign(x) * (1.0 - polynomial * tf.exp(-x * x))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def _gelu_derivative(x: Tensor, _y: Tensor) -> Tensor:
    density = math.sqrt(0.5 / math.pi) * tf.exp(-0.5 * x * x)
    return 0.5 * (1.0 + erf(x * math.sqrt(0.5))) + x * density


def leaky_relu(slope: float) -> Activation:
    """max(x, slope * x), for a slope from 0 to 1."""
    return _elementwise(
        lambda x: tf.maximum(x, slope * x), lambda x, _y: slope + (1.0 - slope) * _positive(x)
    )


def linear(x: Tensor) -> Tensor:
    """The identity."""
    return x


relu = _elementwise(tf.nn.relu, lambda _x, y: tf.sign(y))
relu6 = _elementwise(tf.nn.relu6, lambda _x, y: tf.sign(y * (6.0 - y)))
sigmoid = _elementwise(tf.sigmoid, lambda _x, y: y * (1.0 - y))
tanh = _elementwise(tf.tanh, lambda _x, y: 1.0 - y * y)
swish = _elementwise(lambda x: x * tf.sigmoid(x), _swish_derivative)
gelu = _elementwise(_gelu, _gelu_derivative)
# Keras: x * clip(x / 6 + 1/2, 0, 1)
hard_sigmoid = _elementwise(
    lambda x: tf.minimum(tf.nn.relu(0.2 * x + 0.5), 1.0),
    lambda x, _y: 0.2 * _positive(2.5 - tf.abs(x)),
)
hard_swish = _elementwise(
    lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    lambda x, _y: tf.nn.relu6(x + 3.0) / 6.0 + x * _positive(3.0 - tf.abs(x)) / 6.0,
)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def softmax(x: Tensor) -> Any:
    """Softmax over the last axis."""
    y = tf.nn.softmax(x)
    return y, lambda dy: y * (dy - tf.reduce_sum(dy * y, axis=-1, keepdims=True))


ACTIVATIONS: dict[str, Activation] = {
    "linear": linear,
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu(0.2),  # the slope of tf.nn.leaky_relu
    "sigmoid": sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "tanh": tanh,
    "swish": swish,
    "silu": swish,
    "hard_swish": hard_swish,
    "gelu": gelu,
    "softmax": softmax,
}
