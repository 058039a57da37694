"""Convolutions and dense layers with gradients in builtin ops.

With respect to the input, a convolution's gradient is a convolution of dY with the kernel turned by
180 degrees and its channels swapped; for strides it is TRANSPOSE_CONV. With respect to the kernel it is
a convolution whose picture is x with batch and channels swapped and whose kernel is dY, dilated by the
stride (Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", 2006,
and design section 4).
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from compression.trainable.lowerings import convolve, input_gradient, kernel_gradient, product
from compression.trainable.shapes import Grid, Window, crop, first, grid, pad, pad_for, spread, turned

Tensor = Any


def _full_padding(axis: Window, extent: int) -> tuple[int, int]:
    """Zeros around dY so that a unit-stride convolution with the turned kernel gives `extent` again."""
    before = axis.size - 1 - axis.before
    return before, extent - axis.outputs + axis.size - 1 - before


def conv2d(x: Tensor, kernel: Tensor, strides: tuple[int, int] = (1, 1), padding: str = "SAME") -> Tensor:
    """Convolution of [N, H, W, Cin] with [kh, kw, Cin, Cout]."""
    over = grid(x, kernel.shape[:2], strides, padding)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, kernel: Tensor) -> Any:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            return (
                _input_gradient(dy, kernel, x.shape, over),
                kernel_gradient(pad_for(x, over), dy, kernel.shape, over),
            )

        return convolve(pad_for(x, over), kernel, over), gradient

    return apply(x, kernel)


def _input_gradient(dy: Tensor, kernel: Tensor, shape: Any, over: Grid) -> Tensor:
    rows, columns = over
    _, height, width, _ = shape
    if over.unit:
        swapped = tf.transpose(turned(kernel), [0, 1, 3, 2])
        padded = pad(dy, _full_padding(rows, height), _full_padding(columns, width))
        return convolve(padded, swapped, grid(padded, kernel.shape[:2], (1, 1), "VALID"))
    tall, wide = height + rows.before + rows.after, width + columns.before + columns.after
    return crop(input_gradient(dy, kernel, [shape[0], tall, wide, shape[3]], over), over, shape)


def depthwise_conv2d(
    x: Tensor, kernel: Tensor, strides: tuple[int, int] = (1, 1), padding: str = "SAME"
) -> Tensor:
    """Depthwise convolution of [N, H, W, C] with [kh, kw, C, multiplier]."""
    multiplier = kernel.shape[3]
    if multiplier > 1:  # each channel taken `multiplier` times, then one kernel a channel
        batch, height, width, channels = x.shape
        x = tf.broadcast_to(tf.reshape(x, [*x.shape, 1]), [batch, height, width, channels, multiplier])
        x = tf.reshape(x, [batch, height, width, channels * multiplier])
        kernel = tf.reshape(kernel, [*kernel.shape[:2], channels * multiplier, 1])
    over = grid(x, kernel.shape[:2], strides, padding)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, kernel: Tensor) -> Any:
        y = _depthwise_forward(x, kernel, over)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            return (
                _depthwise_input_gradient(dy, kernel, x.shape, over),
                _depthwise_kernel_gradient(dy, x, kernel.shape, over),
            )

        return y, gradient

    return apply(x, kernel)


def _depthwise_forward(x: Tensor, kernel: Tensor, over: Grid) -> Tensor:
    rows, columns = over
    # TensorFlow's op wants equal strides: the unequal case computes more positions, and picks.
    stride = math.gcd(rows.stride, columns.stride)
    x = pad_for(x, over)
    y = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")
    if rows.stride != columns.stride:
        y = y[:, :: rows.stride // stride, :: columns.stride // stride, :]
    return first(y, rows.outputs, columns.outputs)


def _depthwise_input_gradient(dy: Tensor, kernel: Tensor, shape: Any, over: Grid) -> Tensor:
    (_, height, width, _), (rows, columns) = shape, over
    dense = spread(dy, rows.stride, columns.stride)
    tall, wide = height + rows.before + rows.after, width + columns.before + columns.after
    missing_rows, missing_columns = tall + rows.size - 1, wide + columns.size - 1
    dense = first(dense, missing_rows - rows.size + 1, missing_columns - columns.size + 1)
    dense = pad(
        dense,
        (rows.size - 1, missing_rows - dense.shape[1] - rows.size + 1),
        (columns.size - 1, missing_columns - dense.shape[2] - columns.size + 1),
    )
    dx = tf.nn.depthwise_conv2d(dense, turned(kernel), [1, 1, 1, 1], "VALID")
    return crop(dx, over, shape)


def _depthwise_kernel_gradient(dy: Tensor, x: Tensor, shape: Any, over: Grid) -> Tensor:
    """A depthwise convolution too: of pictures laid side by side as channels, with dY for a kernel."""
    batch, channels = int(x.shape[0]), int(x.shape[3])

    def side_by_side(pictures: Tensor) -> Tensor:
        moved = tf.transpose(pictures, [1, 2, 0, 3])
        return tf.reshape(moved, [*moved.shape[:2], batch * channels])

    picture, kernel = side_by_side(pad_for(x, over)), side_by_side(dy)
    taps = tf.nn.depthwise_conv2d(
        picture[tf.newaxis],
        kernel[..., tf.newaxis],
        [1, 1, 1, 1],
        "VALID",
        dilations=[over.rows.stride, over.columns.stride],
    )
    taps = tf.reshape(taps[:, : shape[0], : shape[1]], [-1, batch, channels])
    return tf.reshape(tf.reduce_sum(taps, axis=1), shape)


def dense(x: Tensor, kernel: Tensor) -> Tensor:
    """Matrix product of [..., D] with [D, units]."""
    flat = tf.reshape(x, [-1, x.shape[-1]]) if len(x.shape) > 2 else x

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor, kernel: Tensor) -> Any:
        return product(x, kernel), lambda dy: (
            tf.matmul(dy, kernel, transpose_b=True),
            tf.matmul(x, dy, transpose_a=True),
        )

    y = apply(flat, kernel)
    return tf.reshape(y, [*x.shape[:-1], kernel.shape[1]]) if len(x.shape) > 2 else y


@tf.custom_gradient  # type: ignore[untyped-decorator]
def add_bias(x: Tensor, bias: Tensor) -> Any:
    """x + bias over the last axis; the bias' gradient is a sum over all others."""
    axes = list(range(len(x.shape) - 1))
    return x + bias, lambda dy: (dy, tf.reduce_sum(dy, axis=axes))
