"""What the benchmarks ask of a codec, ours or a peer's, and the frame of the peers' ones.

The peers' codecs take one vector, which is how their papers have it. They get the trainable tensors joined;
batch normalisation's statistics travel beside them as float32, so that no codec is blamed for a variance that
it moved below zero. All is counted in the payload; there is no header, which is in their favour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, Weights

Floats = npt.NDArray[np.float32]
Tensors = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Context:
    """What sender and receiver know without being told, and the round the sender is in."""

    tensors: tuple[TensorSpec, ...]
    model_digest: str
    round_number: int = 1


class Codec(Protocol):
    """An update as bytes and back."""

    @property
    def name(self) -> str:
        """On the command line."""

    @property
    def paper(self) -> str:
        """Where it is described."""

    def encode(self, delta: Weights, context: Context, rng: np.random.Generator) -> bytes:
        """The update alone, without feedback: what is timed."""

    def decode(self, payload: bytes, context: Context) -> Tensors:
        """Inverse of `encode`, as far as the codec has one."""

    def send(
        self, delta: Weights, residual: Weights | None, context: Context, rng: np.random.Generator
    ) -> tuple[bytes, Tensors | None]:
        """The payload with what is owed in it, and what is owed after it; None if nothing ever is."""


@dataclass(frozen=True, slots=True)
class VectorCodec(ABC):
    """A codec of one vector.

    Attributes:
        name: on the command line.
        paper: where it is described.
        feedback: whether the paper adds what was lost to the next update.
    """

    name: str
    paper: str
    feedback: bool = False

    @abstractmethod
    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:
        """Code a vector."""

    @abstractmethod
    def unpack(self, data: bytes, size: int) -> Floats:
        """Inverse of `pack` for a vector of this size."""

    def encode(self, delta: Weights, context: Context, rng: np.random.Generator) -> bytes:
        """The trainable tensors by `pack`, then the statistics as they are."""
        packed = self.pack(_joined(delta, context.tensors, "trainable"), rng)
        return packed + _joined(delta, context.tensors, "statistic").astype("<f4").tobytes()

    def decode(self, payload: bytes, context: Context) -> Tensors:
        """Inverse of `encode`."""
        measured = sum(t.size for t in context.tensors if t.role == "statistic")
        trained = sum(t.size for t in context.tensors) - measured
        border = len(payload) - 4 * measured
        statistics = np.frombuffer(payload, "<f4", offset=border).astype(np.float32)
        parts = {"trainable": self.unpack(payload[:border], trained), "statistic": statistics}
        return _split(parts, context.tensors)

    def send(
        self, delta: Weights, residual: Weights | None, context: Context, rng: np.random.Generator
    ) -> tuple[bytes, Tensors | None]:
        """With feedback where the paper has it."""
        if not self.feedback:
            return self.encode(delta, context, rng), None
        owed = {n: np.asarray(a if residual is None else a + residual[n]) for n, a in delta.items()}
        payload = self.encode(owed, context, rng)
        sent = self.decode(payload, context)
        return payload, {name: np.asarray(array - sent[name]) for name, array in owed.items()}


def _joined(delta: Weights, tensors: Sequence[TensorSpec], role: Literal["trainable", "statistic"]) -> Floats:
    chosen = [delta[tensor.name].ravel() for tensor in tensors if tensor.role == role]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.float32)


def _split(parts: dict[str, Floats], tensors: Sequence[TensorSpec]) -> Tensors:
    starts = dict.fromkeys(parts, 0)
    cut = {}
    for tensor in tensors:
        start = starts[tensor.role]
        starts[tensor.role] += tensor.size
        cut[tensor.name] = parts[tensor.role][start : start + tensor.size].reshape(tensor.shape)
    return cut
