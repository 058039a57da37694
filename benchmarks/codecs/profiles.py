"""Our own profiles behind the interface of the benchmarks: the product's functions and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.codecs.codec import Context, Tensors
from compression.spec import Weights
from compression.updates import CodecProfile, decode_update, encode_update, with_feedback


@dataclass(frozen=True, slots=True)
class ProfileCodec:
    """A profile of the update codec."""

    profile: CodecProfile
    paper: str = "docs/update-codec.md"

    @property
    def name(self) -> str:
        """The profile's."""
        return self.profile.name

    def encode(self, delta: Weights, context: Context, rng: np.random.Generator) -> bytes:
        """`encode_update`."""
        return encode_update(
            delta,
            self.profile,
            model_digest=context.model_digest,
            round_number=context.round_number,
            tensors=context.tensors,
            rng=rng,
        ).payload

    def decode(self, payload: bytes, context: Context) -> Tensors:
        """`decode_update`."""
        return decode_update(payload, context.tensors, model_digest=context.model_digest).delta

    def send(
        self, delta: Weights, residual: Weights | None, context: Context, rng: np.random.Generator
    ) -> tuple[bytes, Tensors | None]:
        """`with_feedback`."""
        encoded, owed = with_feedback(
            delta,
            residual,
            self.profile,
            model_digest=context.model_digest,
            round_number=context.round_number,
            tensors=context.tensors,
            rng=rng,
        )
        return encoded.payload, owed
