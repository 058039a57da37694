"""From trained weights to what is sent and what is kept once it is accepted."""

from __future__ import annotations

from dataclasses import dataclass

from compression.spec import ModelSpec, Weights
from compression.updates import PROFILES, CodecProfile, encode_update, with_feedback
from edge_client.training.scaffold import moved, variate_change
from edge_client.wire.variates import variate_digest


@dataclass(frozen=True, slots=True)
class Coder:
    """How one task's update is coded."""

    spec: ModelSpec  # of the tensors that travel
    bundle_digest: str
    profile: CodecProfile
    round_number: int

    @classmethod
    def of(cls, spec: ModelSpec, bundle_digest: str, codec: str, round_number: int) -> Coder:
        """With a profile by its name."""
        return cls(spec, bundle_digest, PROFILES[codec], round_number)

    def update(self, delta: Weights, residual: Weights | None) -> tuple[bytes, Weights]:
        """The payload of a delta with what is owed, and what is owed after it."""
        travels = {tensor.name: delta[tensor.name] for tensor in self.spec.tensors}
        encoded, owed = with_feedback(
            travels,
            residual,
            self.profile,
            model_digest=self.bundle_digest,
            round_number=self.round_number,
            tensors=self.spec.tensors,
        )
        return encoded.payload, owed

    def variate(
        self, control: Weights, variate: Weights, delta: Weights, *, steps: int, learning_rate: float
    ) -> tuple[bytes, Weights]:
        """The payload of how SCAFFOLD moves a client's variate, and the variate moved by what is sent."""
        change = variate_change(control, variate, delta, steps=steps, learning_rate=learning_rate)
        encoded = encode_update(
            change,
            self.profile,
            model_digest=variate_digest(self.bundle_digest),
            round_number=self.round_number,
            tensors=self.spec.trainable.tensors,
        )
        return encoded.payload, moved(variate, encoded.sent)
