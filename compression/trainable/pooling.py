"""Pools, upsampling and padding with gradients in builtin ops.

Where several elements of a window are the largest, TensorFlow gives the whole gradient to the first of
them in row-major order. That is not a corner case: over the black border of an X-ray all elements of a
window are equal. So do we.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from compression.trainable.shapes import Grid, crop, grid, pad_for, tap, untap

Tensor = Any
LOWEST = -3.4e38  # what padding holds under a max pool: close to the least float32


def max_pool(x: Tensor, size: tuple[int, int], strides: tuple[int, int], padding: str) -> Tensor:
    """Max pool over windows of `size`."""
    over = grid(x, size, strides, padding)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        y = tf.nn.max_pool2d(x, size, strides, padding.upper())
        if size == strides == (2, 2) and not x.shape[1] % 2 and not x.shape[2] % 2:
            return y, lambda dy: _halving_gradient(dy, x)
        return y, lambda dy: _max_gradient(dy, x, y, over)

    return apply(x)


def _max_gradient(dy: Tensor, x: Tensor, y: Tensor, over: Grid) -> Tensor:
    """Tap by tap: the first to equal the maximum takes the gradient, and nothing is left for others."""
    padded = pad_for(x, over, LOWEST)
    left, parts = dy, []
    for place in over.taps:
        taken = left * tf.cast(tf.equal(tap(padded, place, over), y), tf.float32)
        left = left - taken
        parts.append(untap(taken, place, over, padded.shape))
    return crop(tf.add_n(parts), over, x.shape)


def _halving_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """The 2x2 pool with stride 2 as a tournament: pairs of columns first, then pairs of rows.

    The left one and the upper one win ties, which is the row-major order. Pairs are the two halves of a
    reshaped last axis, so no strided slices are needed.
    """
    batch, height, width, channels = x.shape
    pairs = tf.reshape(x, [batch * height * width // 2, 2 * channels])
    left, right = pairs[:, :channels], pairs[:, channels:]
    right_wins = tf.sign(tf.nn.relu(right - left))
    row_maxima = tf.reshape(tf.maximum(left, right), [batch * height // 2, width * channels])
    half = width * channels // 2
    lower_wins = tf.sign(tf.nn.relu(row_maxima[:, half:] - row_maxima[:, :half]))
    dy = tf.reshape(dy, [batch * height // 2, half])
    lower = dy * lower_wins
    d_rows = tf.reshape(tf.concat([dy - lower, lower], axis=1), [batch * height * width // 2, channels])
    d_right = d_rows * right_wins
    return tf.reshape(tf.concat([d_rows - d_right, d_right], axis=1), x.shape)


def average_pool(x: Tensor, size: tuple[int, int], strides: tuple[int, int], padding: str) -> Tensor:
    """Mean over windows of `size`; padding is not counted."""
    over = grid(x, size, strides, padding)
    counted = pad_for(tf.ones([1, *x.shape[1:3], 1]), over)
    counts = tf.add_n([tap(counted, place, over) for place in over.taps])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        y = tf.nn.avg_pool2d(x, size, strides, padding.upper())
        return y, lambda dy: _average_gradient(dy / counts, x, over)

    return apply(x)


def _average_gradient(share: Tensor, x: Tensor, over: Grid) -> Tensor:
    batch, height, width, channels = x.shape
    rows, columns = over
    shape = [batch, height + rows.before + rows.after, width + columns.before + columns.after, channels]
    return crop(tf.add_n([untap(share, place, over, shape) for place in over.taps]), over, x.shape)


def global_average_pool(x: Tensor) -> Tensor:
    """Mean over height and width."""
    _, height, width, _ = x.shape

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        def gradient(dy: Tensor) -> Tensor:
            return tf.broadcast_to((dy / (height * width))[:, tf.newaxis, tf.newaxis, :], x.shape)

        return tf.reduce_mean(x, axis=[1, 2]), gradient

    return apply(x)


def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over height and width; equal maxima share the gradient, as TensorFlow's reduce_max has it."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        y = tf.reduce_max(x, axis=[1, 2], keepdims=True)

        def gradient(dy: Tensor) -> Tensor:
            largest = tf.cast(tf.equal(x, y), tf.float32)
            shared = dy[:, tf.newaxis, tf.newaxis, :] / tf.reduce_sum(largest, axis=[1, 2], keepdims=True)
            return largest * shared

        return tf.reshape(y, [x.shape[0], x.shape[3]]), gradient

    return apply(x)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat rows and columns (nearest neighbour)."""
    batch, height, width, channels = x.shape

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        def gradient(dy: Tensor) -> Tensor:
            columns = tf.reshape(dy, [batch * height * size[0] * width, size[1], channels])
            rows = tf.reshape(tf.reduce_sum(columns, axis=1), [batch * height, size[0], width * channels])
            return tf.reshape(tf.reduce_sum(rows, axis=1), x.shape)

        wide = tf.broadcast_to(
            tf.reshape(x, [batch * height * width, 1, channels]), [batch * height * width, size[1], channels]
        )
        line = width * size[1] * channels
        tall = tf.broadcast_to(tf.reshape(wide, [batch * height, 1, line]), [batch * height, size[0], line])
        return tf.reshape(tall, [batch, height * size[0], width * size[1], channels]), gradient

    return apply(x)
