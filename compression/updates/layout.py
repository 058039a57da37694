"""Which tensors are pruned, which are sent whole, and how they lie side by side in one array."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, Weights
from compression.updates import integers
from compression.updates.bits import Bytes
from compression.updates.errors import CodecError

Floats = npt.NDArray[np.float32]

PRUNED, WHOLE, STATISTIC = 0, 1, 2
TREATMENTS = (PRUNED, WHOLE, STATISTIC)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, shapes and treatments of all tensors, in the order of the spec."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treatments: tuple[int, ...]

    def shapes_of(self, treatment: int) -> list[tuple[int, ...]]:
        """Shape of each tensor with this treatment."""
        pairs = zip(self.shapes, self.treatments, strict=True)
        return [shape for shape, given in pairs if given == treatment]

    def sizes(self, treatment: int) -> list[int]:
        """Elements of each tensor with this treatment."""
        return [math.prod(shape) for shape in self.shapes_of(treatment)]

    def encode(self) -> bytes:
        """The treatments; names and shapes are known to the receiver."""
        return _encoded(self.treatments)


@lru_cache(maxsize=8)  # the same for every update of a model
def _encoded(treatments: tuple[int, ...]) -> bytes:
    return integers.encode(np.array(treatments, np.uint32))


@lru_cache(maxsize=8)
def _decoded(data: bytes, count: int) -> tuple[int, ...]:
    return tuple(integers.decode(data, count, len(TREATMENTS)).tolist())


def decode_layout(data: Bytes, tensors: Sequence[TensorSpec]) -> Layout:
    """Inverse of `Layout.encode`; raise `CodecError` for anything else."""
    treatments = _decoded(bytes(data), len(tensors))
    return Layout(tuple(t.name for t in tensors), tuple(t.shape for t in tensors), treatments)


def plan_layout(delta: Weights, statistics: Collection[str], whole_share: float) -> Layout:
    """Statistics apart; the smallest of the others whole, while they make up at most `whole_share`."""
    budget = whole_share * sum(array.size for array in delta.values())
    whole: set[str] = set()
    for name in sorted(set(delta) - set(statistics), key=lambda name: (delta[name].size, name)):
        budget -= delta[name].size
        if budget < 0:
            break
        whole.add(name)
    treatments = (STATISTIC if n in statistics else WHOLE if n in whole else PRUNED for n in delta)
    return Layout(tuple(delta), tuple(array.shape for array in delta.values()), tuple(treatments))


def join(delta: Weights, layout: Layout, treatment: int) -> Floats:
    """All values of the tensors with this treatment."""
    chosen = [
        delta[n].ravel()
        for n, given in zip(layout.names, layout.treatments, strict=True)
        if given == treatment
    ]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.float32)


def split(values: Mapping[int, Floats], layout: Layout) -> dict[str, Floats]:
    """Inverse of `join` for all treatments at once; the tensors are views."""
    starts = dict.fromkeys(values, 0)
    tensors = {}
    for name, shape, treatment in zip(layout.names, layout.shapes, layout.treatments, strict=True):
        start = starts[treatment]
        starts[treatment] += math.prod(shape)
        tensors[name] = values[treatment][start : starts[treatment]].reshape(shape)
    return tensors


def check_against(delta: Weights, tensors: Sequence[TensorSpec]) -> None:
    """Raise `CodecError` unless names, order and shapes are those of the spec."""
    given = [(name, array.shape) for name, array in delta.items()]
    wanted = [(tensor.name, tensor.shape) for tensor in tensors]
    if given != wanted:
        differing = next(
            (f"{g} for {w}" for g, w in zip(given, wanted, strict=False) if g != w), "their number"
        )
        raise CodecError(f"tensors differ from the model's spec: {differing}")
