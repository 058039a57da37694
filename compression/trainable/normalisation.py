"""Batch and layer normalisation with explicit gradients (Ioffe and Szegedy, 2015; Ba et al., 2016).

A padded example takes no part: batch statistics are taken over the examples whose mask is 1, so a last,
smaller batch gives what Keras gives for exactly those examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Tensor = Any


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and (biased) variance of each channel over the examples whose mask is 1."""
    positions = math.prod(x.shape[1:-1])
    count = tf.maximum(tf.reduce_sum(mask), 1.0) * float(positions)
    mean = _masked_sum(x, mask) / count
    return count, mean, _masked_sum(tf.math.squared_difference(x, mean), mask) / count


def _masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum for each channel: within the examples first, so that the mask costs no pass over all of x."""
    within = tf.reduce_sum(x, axis=list(range(1, len(x.shape) - 1))) if len(x.shape) > 2 else x
    return tf.reduce_sum(within * mask[:, tf.newaxis], axis=0)


def _per_example(mask: Tensor, x: Tensor) -> Tensor:
    return tf.reshape(mask, [-1] + [1] * (len(x.shape) - 1))


def batch_normalise(
    x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by the batch's own statistics; also give (count, mean, variance).

    Everything that is one number a channel is worked out before it meets the pictures: two passes over them
    for the output, six for the gradients.
    """
    count, mean, variance = (tf.stop_gradient(value) for value in moments(x, mask))
    axes = list(range(len(x.shape) - 1))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            centred = x - mean
            d_beta = tf.reduce_sum(dy, axis=axes)
            d_gamma = tf.reduce_sum(dy * centred, axis=axes) * inverse
            counts = _per_example(mask, x)
            slope, offset = counts * (inverse * d_gamma / count), counts * (d_beta / count)
            return (dy - (centred * slope + offset)) * scale, d_gamma, d_beta

        return x * scale + (beta - mean * scale), gradient

    return apply(x, gamma, beta), count, mean, variance


def affine_normalise(
    x: Tensor, gamma: Tensor, beta: Tensor, *, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """Normalise by given statistics, as in inference and in a frozen layer."""
    axes = list(range(len(x.shape) - 1))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        inverse = tf.math.rsqrt(variance + epsilon)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            d_gamma = tf.reduce_sum(dy * (x - mean) * inverse, axis=axes)
            return dy * (gamma * inverse), d_gamma, tf.reduce_sum(dy, axis=axes)

        scale = gamma * inverse
        return x * scale + (beta - mean * scale), gradient

    return apply(x, gamma, beta)


def layer_normalise(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, axes: Sequence[int]) -> Tensor:
    """Normalise each example over `axes`; gamma and beta broadcast against x."""
    others = [axis for axis in range(len(x.shape)) if axis not in axes]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        mean = tf.reduce_mean(x, axis=axes, keepdims=True)
        centred = x - mean
        inverse = tf.math.rsqrt(tf.reduce_mean(centred * centred, axis=axes, keepdims=True) + epsilon)
        normal = centred * inverse

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            d_normal = dy * gamma
            along = tf.reduce_mean(d_normal * normal, axis=axes, keepdims=True)
            dx = inverse * (d_normal - tf.reduce_mean(d_normal, axis=axes, keepdims=True) - normal * along)
            d_gamma = tf.reduce_sum(dy * normal, axis=others, keepdims=True)
            return dx, d_gamma, tf.reduce_sum(dy, axis=others, keepdims=True)

        return normal * gamma + beta, gradient

    return apply(x, gamma, beta)
