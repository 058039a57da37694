"""Convolutions as one product a picture, with the rows of the kernel side by side.

A picture is widened by what a row of the kernel sees (kw copies of its channels), multiplied with all rows of
the kernel at once, and the product's parts are added up, each a row lower than the one before. Unrolling all
of the kernel (`lowerings.unroll`) copies kh times as much, and gives XNNPACK a product of as few columns as
there are channels, which fills half a register at 8. The gradient with respect to the kernel is the same
turned round: dY, transposed, a row lower for each row of the kernel.

A stride becomes channels: a convolution with a stride of 2 is one without over blocks of 2 x 2 pixels, whose
kernel is half as large (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import tensorflow as tf

from compression.trainable.pieces import in_pieces, sum_of_pieces
from compression.trainable.shapes import Grid, first, grid, pad, turned

Tensor = Any


def convolve_by_rows(padded: Tensor, kernel: Tensor, over: Grid) -> Tensor:
    """Convolution without padding of [N, H, W, Cin] with [kh, kw, Cin, Cout]; equal strides."""
    stride = over.rows.stride
    if stride > 1:
        blocks, blocked = _blocks(padded, stride), _kernel_blocks(kernel, stride)
        unit = grid(blocks, blocked.shape[:2], (1, 1), "VALID")
        return first(convolve_by_rows(blocks, blocked, unit), over.rows.outputs, over.columns.outputs)
    return in_pieces(lambda part: _convolve(part, kernel, over), padded, _bytes(padded, kernel.shape))


def kernel_gradient_by_rows(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    """Gradient of the kernel [kh, kw, Cin, Cout]."""
    stride = over.rows.stride
    if stride > 1:
        blocks = _blocks(padded, stride)
        blocked = _blocked_shape(shape, stride)
        unit = grid(blocks, (blocked[0], blocked[1]), (1, 1), "VALID")
        spread = pad(dy, (0, unit.rows.outputs - dy.shape[1]), (0, unit.columns.outputs - dy.shape[2]))
        taps = kernel_gradient_by_rows(blocks, spread, blocked, unit)
        return first_taps(_kernel_unblocked(taps, stride, shape), shape)
    total = _bytes(padded, shape)
    return sum_of_pieces(lambda x, d: _kernel_gradient(x, d, shape, over), padded, dy, total)


def input_gradient_by_rows(dy: Tensor, kernel: Tensor, shape: Any, stride: int) -> Tensor:
    """Gradient of the padded picture of `shape` [N, H, W, Cin], for a stride."""
    blocked = _kernel_blocks(kernel, stride)
    size, (_, height, width, _) = blocked.shape, shape
    rows, columns = -(-height // stride), -(-width // stride)
    full = pad(dy, (size[0] - 1, rows - dy.shape[1]), (size[1] - 1, columns - dy.shape[2]))
    swapped = tf.transpose(turned(blocked), [0, 1, 3, 2])
    blocks = convolve_by_rows(full, swapped, grid(full, size[:2], (1, 1), "VALID"))
    return first(_unblocked(blocks, stride), height, width)


def _bytes(padded: Tensor, kernel: Any) -> int:
    """Size of the widened pictures and of the product."""
    batch, height, width, _ = padded.shape
    return 4 * int(batch * height * width * (kernel[1] * kernel[2] + kernel[0] * kernel[3]))


def _widened(padded: Tensor, over: Grid) -> Tensor:
    """[N, H, W, C] to [N, H * Wo, kw * C]."""
    columns = over.columns
    taps = [padded[:, :, place : place + columns.outputs, :] for place in range(columns.size)]
    line = tf.concat(taps, axis=3) if len(taps) > 1 else padded
    return tf.reshape(line, [line.shape[0], -1, line.shape[3]])


def _convolve(padded: Tensor, kernel: Tensor, over: Grid) -> Tensor:
    (rows, columns), outputs = over, int(kernel.shape[3])
    beside = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3]), [1, -1, rows.size * outputs])
    each = tf.matmul(_widened(padded, over), beside)
    starts = [(row * columns.outputs, row * outputs) for row in range(rows.size)]
    parts = [each[:, m : m + rows.outputs * columns.outputs, n : n + outputs] for m, n in starts]
    return tf.reshape(reduce(tf.add, parts), [padded.shape[0], rows.outputs, columns.outputs, outputs])


def _kernel_gradient(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    (rows, columns), (batch, _, _, outputs) = over, dy.shape
    # transposed here and not by the product, which XNNPACK would leave to a slower kernel
    flat, below = tf.transpose(tf.reshape(dy, [batch, -1, outputs]), [0, 2, 1]), rows.size - 1
    moved = [
        tf.pad(flat, [[0, 0], [0, 0], [row * columns.outputs, (below - row) * columns.outputs]])
        for row in range(rows.size)
    ]
    taps = tf.matmul(tf.concat(moved, axis=1), _widened(padded, over))
    taps = tf.reshape(tf.reduce_sum(taps, axis=0), [shape[0], shape[3], shape[1], shape[2]])
    return tf.transpose(taps, [0, 2, 3, 1])


def _blocks(x: Tensor, size: int) -> Tensor:
    """[N, H, W, C] to [N, H / size, W / size, size * size * C], rounded up."""
    x = pad(x, (0, -x.shape[1] % size), (0, -x.shape[2] % size))
    batch, height, width, channels = x.shape
    rows = tf.reshape(x, [batch * height // size, size, width // size, size * channels])
    beside = tf.transpose(rows, [0, 2, 1, 3])
    return tf.reshape(beside, [batch, height // size, width // size, size * size * channels])


def _unblocked(x: Tensor, size: int) -> Tensor:
    """Inverse of `_blocks`."""
    batch, height, width, channels = x.shape
    beside = tf.reshape(x, [batch * height, width, size, channels // size])
    rows = tf.transpose(beside, [0, 2, 1, 3])
    return tf.reshape(rows, [batch, height * size, width * size, channels // size**2])


def _blocked_shape(shape: Any, size: int) -> list[int]:
    height, width, inputs, outputs = shape
    return [-(-height // size), -(-width // size), size * size * inputs, outputs]


def _kernel_blocks(kernel: Tensor, size: int) -> Tensor:
    """[kh, kw, Cin, Cout] to [kh / size, kw / size, size * size * Cin, Cout], rounded up."""
    height, width, inputs, outputs = kernel.shape
    kernel = _pad_taps(kernel, -height % size, -width % size)
    high, wide = kernel.shape[0] // size, kernel.shape[1] // size
    rows = tf.reshape(kernel, [high, size, wide, size * inputs * outputs])
    return tf.reshape(tf.transpose(rows, [0, 2, 1, 3]), [high, wide, size * size * inputs, outputs])


def _kernel_unblocked(taps: Tensor, size: int, shape: Any) -> Tensor:
    """Inverse of `_kernel_blocks`, what it added included."""
    (high, wide, _, _), (_, _, inputs, outputs) = taps.shape, shape
    rows = tf.transpose(tf.reshape(taps, [high, wide, size, size * inputs * outputs]), [0, 2, 1, 3])
    return tf.reshape(rows, [high * size, wide * size, inputs, outputs])


def _pad_taps(kernel: Tensor, below: int, right: int) -> Tensor:
    """Zeros under and beside a kernel."""
    return tf.pad(kernel, [[0, below], [0, right], [0, 0], [0, 0]]) if below or right else kernel


def first_taps(taps: Tensor, shape: Any) -> Tensor:
    """As many as the kernel has."""
    return taps if taps.shape == shape else taps[: shape[0], : shape[1]]
