"""A whole model without loss: what a device gets that is new, or too many rounds behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from compression.spec import TensorSpec, Weights
from compression.updates.codec import SPARE_BYTES, split_all
from compression.updates.errors import CodecError
from compression.updates.floats import read_exact, write_exact
from compression.updates.sections import Reader, Writer
from compression.updates.stages import Floats

MAGIC = b"BRWT"
_ID_BYTES = 8


def pack_model(weights: Weights, *, quick: bool = False) -> bytes:
    """All tensors, bit for bit; raise `CodecError` for a value that is not finite.

    `quick` is for what is made every round and hardly ever fetched (`floats.squeeze`).
    """
    for name, array in weights.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise CodecError(f"{name} is not float32, or holds a value that is not finite")
    writer = Writer(MAGIC, 0)
    writer.fields(_layout_id((name, array.shape) for name, array in weights.items()))
    values = np.concatenate([np.zeros(0, np.float32), *(a.ravel() for a in weights.values())])
    write_exact(values, writer, quick=quick)
    return writer.finish()


def unpack_model(data: bytes, tensors: Sequence[TensorSpec]) -> dict[str, Floats]:
    """Inverse of `pack_model`; memory is bounded by what `tensors` declare.

    Raises:
        CodecError: anything but a model of these tensors.
    """
    parameters = sum(tensor.size for tensor in tensors)
    reader = Reader(data, MAGIC, 4 * parameters + SPARE_BYTES)
    if reader.kind != 0:
        raise CodecError(f"unknown kind of packed model {reader.kind}")
    if reader.fields(_ID_BYTES) != _layout_id((tensor.name, tensor.shape) for tensor in tensors):
        raise CodecError("packed model has other tensors than this spec")
    values = read_exact(reader, parameters)
    reader.end()
    return split_all(values, tensors)


def _layout_id(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """Eight bytes of a hash of names and shapes, in order."""
    text = "\n".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in tensors)
    return hashlib.sha256(text.encode()).digest()[:_ID_BYTES]
