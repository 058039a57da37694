"""The ways to compute a convolution and its gradients.

``conv``: the runtime's CONV_2D and TRANSPOSE_CONV. XNNPACK leaves them to TFLite's own kernels where the
weights are variables, and CONV_2D unrolls the whole batch's pictures (im2col) into scratch memory; so large
batches go in pieces.

``matmul``: unroll with slices and concatenations, which XNNPACK runs, and multiply (Chellapilla et al.,
2006). Unrolling columns first and rows after costs kh + kw copies instead of kh * kw.

``rows``: unroll columns only and multiply with all rows of the kernel at once (`by_rows`).

``depthwise``: a picture of one channel, with as many kernels as there are outputs.

Which one is taken is said by `rules`, or by a table that `tuning` measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from compression.trainable.by_rows import (
    convolve_by_rows,
    first_taps,
    input_gradient_by_rows,
    kernel_gradient_by_rows,
)
from compression.trainable.pieces import in_pieces, sum_of_pieces
from compression.trainable.rules import Chooser, HotOp, Kind, Lowering, by_rule
from compression.trainable.shapes import Grid, tap

Tensor = Any

WIDE = 16  # positions in a row from which on a product by rows is not slower than reshaping (measured)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of [m, k] and [k, n], as a batch of one.

    Trap: of ``relu(tf.matmul(a, b))`` TensorFlow 2.21's converter makes FULLY_CONNECTED with a fused ReLU,
    then BATCH_MATMUL where `b` is a variable, and the ReLU is lost without a word. A third axis saves it.
    """
    batched = tf.matmul(tf.reshape(a, [1, *a.shape]), tf.reshape(b, [1, *b.shape]))
    return tf.reshape(batched, [a.shape[0], b.shape[1]])


_chooser: ContextVar[Chooser] = ContextVar("lowering", default=by_rule)


@contextmanager
def choosing(chooser: Chooser) -> Iterator[None]:
    """Whatever is traced within is lowered as the chooser says; gradients are traced far from any caller."""
    token = _chooser.set(chooser)
    try:
        yield
    finally:
        _chooser.reset(token)


def _choice(kind: Kind, picture: Any, kernel: Any, strides: tuple[int, int]) -> Lowering:
    extents, shape = (tuple(int(n) for n in part) for part in (picture, kernel))
    return _chooser.get()(HotOp(kind, extents, shape, strides))


def unrolled_bytes(batch: int, over: Grid, channels: int) -> int:
    """Size of a batch's unrolled pictures."""
    return 4 * batch * over.rows.outputs * over.columns.outputs * len(over.taps) * channels


def unroll(padded: Tensor, over: Grid) -> Tensor:
    """im2col: [N, H, W, C], padded, to [N, Ho * Wo, kh * kw * C].

    Two axes become one before the rows are put beside each other, when there is least to copy.
    """
    rows, columns = over
    batch, positions = padded.shape[0], rows.outputs * columns.outputs
    if rows.size == columns.size == 1 and over.unit:
        return tf.reshape(padded, [batch, positions, padded.shape[3]])
    if over.unit:
        wide = [padded[:, :, place : place + columns.outputs, :] for place in range(columns.size)]
        line = tf.concat(wide, axis=3) if len(wide) > 1 else wide[0]
        line = tf.reshape(line, [batch, -1, line.shape[3]])
        starts = [place * columns.outputs for place in range(rows.size)]
        tall = [line[:, start : start + positions, :] for start in starts]
    else:
        tall = [tf.reshape(tap(padded, place, over), [batch, positions, -1]) for place in over.taps]
    return tf.concat(tall, axis=2) if len(tall) > 1 else tall[0]


def convolve(padded: Tensor, kernel: Tensor, over: Grid) -> Tensor:
    """Convolution without padding, by the lowering that suits the kernel."""
    batch, channels, outputs = int(padded.shape[0]), int(padded.shape[3]), int(kernel.shape[3])
    strides = (over.rows.stride, over.columns.stride)
    unrolls = len(over.taps) > 1 or not over.unit

    def by_matmul(part: Tensor) -> Tensor:
        if not unrolls and over.columns.outputs >= WIDE:
            return tf.matmul(part, tf.reshape(kernel, [1, 1, channels, outputs]))
        y = tf.matmul(unroll(part, over), tf.reshape(kernel, [1, -1, outputs]))
        return tf.reshape(y, [part.shape[0], over.rows.outputs, over.columns.outputs, outputs])

    def by_conv(part: Tensor) -> Tensor:
        return tf.nn.conv2d(part, kernel, strides, "VALID")

    def by_depthwise(part: Tensor) -> Tensor:
        return tf.nn.depthwise_conv2d(part, kernel, [1, *strides, 1], "VALID")

    lowering = _choice("convolution", padded.shape, kernel.shape, strides)
    if lowering == "depthwise":
        return by_depthwise(padded)
    if lowering == "rows":
        return convolve_by_rows(padded, kernel, over)
    needed = unrolled_bytes(batch, over, channels) if unrolls else 0
    return in_pieces(by_matmul if lowering == "matmul" else by_conv, padded, needed)


def kernel_gradient(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    """Gradient of the kernel [kh, kw, Cin, Cout]."""
    dilations = (over.rows.stride, over.columns.stride)
    lowering = _choice("kernel_gradient", padded.shape, shape, dilations)
    if lowering == "matmul":
        return _kernel_gradient_by_matmul(padded, dy, shape, over)
    if lowering == "rows":
        return kernel_gradient_by_rows(padded, dy, shape, over)
    picture = tf.transpose(padded, [3, 1, 2, 0])
    filters = tf.transpose(dy, [1, 2, 0, 3])

    def compute(part: Tensor) -> Tensor:
        return tf.nn.conv2d(part, filters, 1, "VALID", dilations=dilations)

    needed = unrolled_bytes(int(padded.shape[0]), over, int(padded.shape[3]))
    taps = tf.transpose(in_pieces(compute, picture, needed), [1, 2, 0, 3])
    return first_taps(taps, shape)  # a stride's remainder falls off


def _kernel_gradient_by_matmul(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    def compute(x: Tensor, d: Tensor) -> Tensor:
        # transposed before it is flat: the converter would leave that to the product, and a slower kernel
        across = tf.reshape(tf.transpose(d, [0, 3, 1, 2]), [d.shape[0], d.shape[3], -1])
        return tf.reduce_sum(tf.matmul(across, unroll(x, over)), axis=0)

    total = unrolled_bytes(int(padded.shape[0]), over, int(padded.shape[3]))
    return tf.reshape(tf.transpose(sum_of_pieces(compute, padded, dy, total)), shape)


def input_gradient(dy: Tensor, kernel: Tensor, shape: Any, over: Grid) -> Tensor:
    """Gradient of the padded picture of `shape`, where there is a stride; without one it is a convolution."""
    strides = (over.rows.stride, over.columns.stride)
    if _choice("input_gradient", shape, kernel.shape, strides) == "rows":
        return input_gradient_by_rows(dy, kernel, shape, over.rows.stride)
    return tf.nn.conv2d_transpose(dy, kernel, list(shape), strides, "VALID")
