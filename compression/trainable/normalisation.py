"""Batch and layer normalisation with explicit gradients (Ioffe and Szegedy, 2015; Ba et al., 2016).

A padded example takes no part: batch statistics are taken over the examples whose mask is 1, so a last,
smaller batch gives what Keras gives for exactly those examples.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and (biased) variance of each channel over the examples whose mask is 1."""
    axes = list(range(len(x.shape) - 1))
    mask = _per_example(mask, x)
    positions = 1
    for extent in x.shape[1:-1]:
        positions *= extent
    count = tf.maximum(tf.reduce_sum(mask), 1.0) * float(positions)
    mean = tf.reduce_sum(x * mask, axis=axes) / count
    centred = (x - mean) * mask
    return count, mean, tf.reduce_sum(centred * centred, axis=axes) / count


def _per_example(mask: Tensor, x: Tensor) -> Tensor:
    return tf.reshape(mask, [-1] + [1] * (len(x.shape) - 1))


def batch_normalise(
    x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by the batch's own statistics; also give (count, mean, variance)."""
    count, mean, variance = (tf.stop_gradient(value) for value in moments(x, mask))
    axes = list(range(len(x.shape) - 1))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        inverse = tf.math.rsqrt(variance + epsilon)
        normal = (x - mean) * inverse

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            d_beta = tf.reduce_sum(dy, axis=axes)
            d_gamma = tf.reduce_sum(dy * normal, axis=axes)
            through_statistics = (d_beta / count + normal * (d_gamma / count)) * _per_example(mask, x)
            return (dy - through_statistics) * (gamma * inverse), d_gamma, d_beta

        return normal * gamma + beta, gradient

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


def layer_normalise(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Normalise each example over its last axis."""
    axes = list(range(len(x.shape) - 1))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        centred = x - mean
        inverse = tf.math.rsqrt(tf.reduce_mean(centred * centred, axis=-1, keepdims=True) + epsilon)
        normal = centred * inverse

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            d_normal = dy * gamma
            along = tf.reduce_mean(d_normal * normal, axis=-1, keepdims=True)
            dx = inverse * (d_normal - tf.reduce_mean(d_normal, axis=-1, keepdims=True) - normal * along)
            return dx, tf.reduce_sum(dy * normal, axis=axes), tf.reduce_sum(dy, axis=axes)

        return normal * gamma + beta, gradient

    return apply(x, gamma, beta)
