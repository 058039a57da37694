"""The largest magnitudes with their positions, and the rest forgotten: top-k as frameworks ship it.

Aji and Heafield, Sparse Communication for Distributed Gradient Descent, 2017, https://arxiv.org/abs/1704.05021,
without the residual that their Algorithm 1 keeps; values as float32, positions as 32-bit numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.codecs.codec import Floats, VectorCodec


@dataclass(frozen=True, slots=True)
class TopK(VectorCodec):
    """Eight bytes a kept value.

    Attributes:
        density: share of the values kept.
    """

    density: float = 0.01

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is drawn
        """Positions, then values."""
        kept = min(max(int(self.density * values.size), 1), values.size)
        chosen = np.argpartition(np.abs(values), values.size - kept)[values.size - kept :]
        positions: npt.NDArray[np.uint32] = np.sort(chosen).astype("<u4")
        return positions.tobytes() + values[positions].astype("<f4").tobytes()

    def unpack(self, data: bytes, size: int) -> Floats:
        """The values in their places, zeros elsewhere."""
        kept = len(data) // 8
        values = np.zeros(size, np.float32)
        values[np.frombuffer(data, "<u4", kept)] = np.frombuffer(data, "<f4", kept, offset=4 * kept)
        return values
