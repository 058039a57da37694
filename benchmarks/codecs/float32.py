"""Every value as four bytes: federated averaging as published and as most frameworks send it.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
https://arxiv.org/abs/1602.05629.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.codecs.codec import Floats, VectorCodec


@dataclass(frozen=True, slots=True)
class Float32(VectorCodec):
    """Little-endian float32."""

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is drawn
        """As they are."""
        return values.astype("<f4").tobytes()

    def unpack(self, data: bytes, size: int) -> Floats:
        """As they were."""
        return np.frombuffer(data, "<f4", size).astype(np.float32)
