"""Two ways to compute a convolution, and which one to take.

``conv``: the runtime's CONV_2D. XNNPACK leaves it to TFLite's own kernel where the weights are variables, and
that unrolls the whole batch's pictures (im2col) into scratch memory; so large batches go in pieces.

``matmul``: unroll with slices and concatenations, which XNNPACK runs, and multiply (Chellapilla et al.,
2006). Unrolling columns first and rows after costs kh + kw copies instead of kh * kw.

Measured on one x86_64 core with ai-edge-litert 2.3, batch 16, 3x3, ms as conv / matmul::

    64x64   3->16  3.5 / 3.4      16x16 16->32  1.2 / 0.7      16x16 64->32  8.2 / 2.6
    32x32   8->16  1.5 / 1.4      16x16 32->16  1.3 / 1.2       8x8  32->64  1.1 / 0.7
    32x32  16->8   1.7 / 2.3      16x16 32->32  2.3 / 1.3       8x8  64->64  2.1 / 1.4

and the kernel's gradient::

    64x64   1->8   1.2 / 4.2      16x16 16->32  1.2 / 0.7      16x16 64->32  5.7 / 2.7
    32x32   8->16  1.6 / 1.5      16x16 32->32  2.6 / 1.3       8x8  64->64  2.2 / 1.0

With a stride of 2, where unrolling takes a strided slice for every tap::

    32x32  16->32  1.6 / 3.9, the gradient 1.6 / 8.5       16x16 32->64  1.2 / 2.0, the gradient 1.4 / 2.2

`by_rule` is what these come to; `compression.trainable.tuning` measures a model's own on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from compression.trainable.shapes import Grid, tap

Tensor = Any

PIECE_BYTES = 4 << 20  # of unrolled pictures at a time: 16 pieces were as fast as one (measured)
MATMUL_INPUTS = 16  # channels from which on unrolling copies long enough runs
OUTPUTS = 16  # channels from which on the product is worth the unrolling
GRADIENT_OUTPUTS = 32
WIDE = 16  # positions in a row from which on a product by rows is not slower than reshaping (measured)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of [m, k] and [k, n], as a batch of one.

    Trap: of ``relu(tf.matmul(a, b))`` TensorFlow 2.21's converter makes FULLY_CONNECTED with a fused ReLU,
    then BATCH_MATMUL where `b` is a variable, and the ReLU is lost without a word. A third axis saves it.
    """
    batched = tf.matmul(tf.reshape(a, [1, *a.shape]), tf.reshape(b, [1, *b.shape]))
    return tf.reshape(batched, [a.shape[0], b.shape[1]])


@dataclass(frozen=True, slots=True)
class HotOp:
    """One computation that there are several lowerings for.

    Attributes:
        kind: the convolution itself or its gradient with respect to the kernel; the gradient with respect to
            the input is a convolution too (stride 1), or not a choice.
        picture: [N, H, W, C], padded.
        kernel: [kh, kw, Cin, Cout].
    """

    kind: Literal["convolution", "kernel_gradient"]
    picture: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]

    @property
    def key(self) -> str:
        """As a tuned table names it."""
        parts = ("x".join(str(n) for n in part) for part in (self.picture, self.kernel, self.strides))
        return " ".join([self.kind, *parts])


Lowering = Literal["conv", "matmul", "depthwise"]
Chooser = Callable[[HotOp], Lowering]


def lowerings_of(op: HotOp) -> tuple[Lowering, ...]:
    """Those that compute it."""
    equal = op.strides[0] == op.strides[1]  # as TensorFlow's depthwise op wants them
    single = op.kind == "convolution" and op.kernel[2] == 1 and equal
    return ("conv", "matmul", "depthwise") if single else ("conv", "matmul")


def by_rule(op: HotOp) -> Lowering:
    """What the table above comes to."""
    height, width, inputs, outputs = op.kernel
    gradient, strided = op.kind == "kernel_gradient", max(op.strides) > 1
    if height == width == 1:  # nothing to unroll, but rows to pick out for a stride
        return "matmul" if gradient or not strided else "conv"
    if "depthwise" in lowerings_of(op):
        return "depthwise"
    least = GRADIENT_OUTPUTS if gradient else OUTPUTS
    return "matmul" if inputs >= MATMUL_INPUTS and outputs >= least and not strided else "conv"


_chooser: ContextVar[Chooser] = ContextVar("lowering", default=by_rule)


@contextmanager
def choosing(chooser: Chooser) -> Iterator[None]:
    """Whatever is traced within is lowered as the chooser says; gradients are traced far from any caller."""
    token = _chooser.set(chooser)
    try:
        yield
    finally:
        _chooser.reset(token)


def _choice(kind: Literal["convolution", "kernel_gradient"], x: Tensor, kernel: Any, over: Grid) -> Lowering:
    picture, shape = (tuple(int(n) for n in part) for part in (x.shape, kernel))
    return _chooser.get()(HotOp(kind, picture, shape, (over.rows.stride, over.columns.stride)))


def pieces(count: int, total_bytes: int) -> int:
    """Into how many equal parts to split `count` things that unroll to `total_bytes`."""
    wanted = -(-total_bytes // PIECE_BYTES)
    return next((parts for parts in range(1, count + 1) if parts >= wanted and count % parts == 0), count)


def in_pieces(compute: Callable[[Tensor], Tensor], x: Tensor, total_bytes: int) -> Tensor:
    """``compute(x)``, the first axis taken piece by piece."""
    parts = pieces(int(x.shape[0]), total_bytes)
    if parts == 1:
        return compute(x)
    return tf.concat([compute(part) for part in tf.split(x, parts)], axis=0)


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

    lowering = _choice("convolution", padded, kernel.shape, over)
    if lowering == "depthwise":
        return by_depthwise(padded)
    needed = unrolled_bytes(batch, over, channels) if unrolls else 0
    return in_pieces(by_matmul if lowering == "matmul" else by_conv, padded, needed)


def kernel_gradient(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    """Gradient of the kernel [kh, kw, Cin, Cout]."""
    if _choice("kernel_gradient", padded, shape, over) == "matmul":
        return _kernel_gradient_by_matmul(padded, dy, shape, over)
    picture = tf.transpose(padded, [3, 1, 2, 0])
    filters = tf.transpose(dy, [1, 2, 0, 3])
    dilations = (over.rows.stride, over.columns.stride)

    def compute(part: Tensor) -> Tensor:
        return tf.nn.conv2d(part, filters, 1, "VALID", dilations=dilations)

    needed = unrolled_bytes(int(padded.shape[0]), over, int(padded.shape[3]))
    taps = tf.transpose(in_pieces(compute, picture, needed), [1, 2, 0, 3])
    return taps if taps.shape == shape else taps[: shape[0], : shape[1]]  # a stride's remainder falls off


def _kernel_gradient_by_matmul(padded: Tensor, dy: Tensor, shape: Any, over: Grid) -> Tensor:
    batch = int(padded.shape[0])
    parts = pieces(batch, unrolled_bytes(batch, over, int(padded.shape[3])))
    products = [
        # dY on the left: tflite-runtime is 2 to 3 times slower the other way round (measured)
        tf.matmul(tf.reshape(d, [d.shape[0], -1, d.shape[3]]), unroll(x, over), transpose_a=True)
        for x, d in zip(tf.split(padded, parts), tf.split(dy, parts), strict=True)
    ]
    each = products[0] if parts == 1 else tf.add_n(products)
    return tf.reshape(tf.transpose(tf.reduce_sum(each, axis=0)), shape)
