"""Eight bits a value, one scale a block: the largest magnitude of a block is 127, the rest is rounded.

Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, 2016, https://arxiv.org/abs/1511.04561, for
the exchange of gradients, in linear steps and by the blocks of Dettmers et al., 8-bit Optimizers via
Block-wise Quantization, 2022, https://arxiv.org/abs/2110.02861.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.codecs.codec import Floats, VectorCodec

LARGEST = np.float32(127)


@dataclass(frozen=True, slots=True)
class Int8Blocks(VectorCodec):
    """Scales as float32, then one byte a value.

    Attributes:
        block: values that share a scale.
    """

    block: int = 256

    def pack(self, values: Floats, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - rounds to the nearest
        """Scale and round each block."""
        blocks = np.zeros((-(-values.size // self.block), self.block), np.float32)
        blocks.ravel()[: values.size] = values
        scales: Floats = np.abs(blocks).max(axis=1, initial=0) / LARGEST
        blocks /= np.where(scales > 0, scales, np.float32(1))[:, np.newaxis]
        codes: npt.NDArray[np.int8] = np.rint(blocks, out=blocks).astype(np.int8).ravel()[: values.size]
        return scales.astype("<f4").tobytes() + codes.tobytes()

    def unpack(self, data: bytes, size: int) -> Floats:
        """Codes times scales."""
        count = -(-size // self.block)
        scales = np.frombuffer(data, "<f4", count).astype(np.float32)
        blocks = np.zeros((count, self.block), np.float32)
        blocks.ravel()[:size] = np.frombuffer(data, np.int8, size, offset=4 * count)
        blocks *= scales[:, np.newaxis]
        return blocks.ravel()[:size]
