"""Padding arithmetic and zero insertion, shared by convolutions and pools."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any


class Window(NamedTuple):
    """One axis of a sliding window: how far it reaches and what is padded."""

    size: int  # taps
    stride: int
    before: int  # zeros in front
    after: int
    outputs: int  # positions


class Grid(NamedTuple):
    """A sliding window over height and width."""

    rows: Window
    columns: Window

    @property
    def unit(self) -> bool:
        """Does it move by one?"""
        return self.rows.stride == self.columns.stride == 1

    @property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """The places under the window, row by row."""
        return tuple((row, column) for row in range(self.rows.size) for column in range(self.columns.size))


def grid(x: Tensor, size: tuple[int, int], strides: tuple[int, int], padding: str) -> Grid:
    """The window over [N, H, W, C]."""
    return Grid(
        window(x.shape[1], size[0], strides[0], padding), window(x.shape[2], size[1], strides[1], padding)
    )


def window(extent: int, size: int, stride: int, padding: str) -> Window:
    """The window over an axis of length `extent`, by TensorFlow's rules for SAME and VALID."""
    if padding.upper() == "VALID":
        return Window(size, stride, 0, 0, (extent - size) // stride + 1)
    outputs = -(-extent // stride)
    missing = max((outputs - 1) * stride + size - extent, 0)
    return Window(size, stride, missing // 2, missing - missing // 2, outputs)


def pad(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], value: float = 0.0) -> Tensor:
    """Pad the two middle axes of [N, H, W, C]; nothing to pad costs nothing."""
    if not any((*rows, *columns)):
        return x
    if x.shape[3] > 1:
        return tf.pad(x, [[0, 0], list(rows), list(columns), [0, 0]], constant_values=value)
    # runs of one number are copied one by one: a picture of one channel is padded as a stack of tables
    tables = tf.pad(tf.reshape(x, x.shape[:3]), [[0, 0], list(rows), list(columns)], constant_values=value)
    return tf.reshape(tables, [*tables.shape, 1])


def pad_for(x: Tensor, over: Grid, value: float = 0.0) -> Tensor:
    """Pad [N, H, W, C] as the window wants it."""
    rows, columns = over
    return pad(x, (rows.before, rows.after), (columns.before, columns.after), value)


def tap(x: Tensor, place: tuple[int, int], over: Grid) -> Tensor:
    """What the window's tap at `place` sees of the padded `x`: [N, Ho, Wo, C]."""
    (row, column), (rows, columns) = place, over
    row_end = row + (rows.outputs - 1) * rows.stride + 1
    column_end = column + (columns.outputs - 1) * columns.stride + 1
    return x[:, row : row_end : rows.stride, column : column_end : columns.stride, :]


def spread(x: Tensor, row_stride: int, column_stride: int) -> Tensor:
    """Insert ``stride - 1`` zeros behind every row and column.

    By way of rank 3, since TFLite's PAD stops at five axes.
    """
    batch, height, width, channels = x.shape
    if row_stride > 1:
        x = tf.reshape(x, [batch * height, 1, width * channels])
        x = tf.pad(x, [[0, 0], [0, row_stride - 1], [0, 0]])
    height *= row_stride
    if column_stride > 1:
        x = tf.reshape(x, [batch * height * width, 1, channels])
        x = tf.pad(x, [[0, 0], [0, column_stride - 1], [0, 0]])
    return tf.reshape(x, [batch, height, width * column_stride, channels])


def untap(dy: Tensor, place: tuple[int, int], over: Grid, shape: Any) -> Tensor:
    """Adjoint of `tap` for a padded picture of `shape`: zeros everywhere else."""
    (row, column), (rows, columns), (_, height, width, _) = place, over, shape
    x = spread(dy, rows.stride, columns.stride)
    row_end = rows.outputs * rows.stride - rows.stride + 1
    column_end = columns.outputs * columns.stride - columns.stride + 1
    x = first(x, row_end, column_end)
    return pad(x, (row, height - row - row_end), (column, width - column - column_end))


def first(x: Tensor, rows: int, columns: int) -> Tensor:
    """At most that many rows and columns."""
    if x.shape[1] <= rows and x.shape[2] <= columns:
        return x
    return x[:, :rows, :columns, :]


def crop(x: Tensor, over: Grid, shape: Any) -> Tensor:
    """Adjoint of `pad_for`: the middle, without what was added; `shape` is that before padding."""
    (rows, columns), (_, height, width, _) = over, shape
    if x.shape[1:3] == shape[1:3]:
        return x
    return x[:, rows.before : rows.before + height, columns.before : columns.before + width, :]


def turned(kernel: Tensor) -> Tensor:
    """The kernel [kh, kw, ...] rotated by 180 degrees.

    Trap: tflite-runtime 2.14 computes REVERSE_V2 over two axes wrongly, and says nothing. One at a time.
    """
    if kernel.shape[0] > 1:
        kernel = tf.reverse(kernel, [0])
    return tf.reverse(kernel, [1]) if kernel.shape[1] > 1 else kernel
