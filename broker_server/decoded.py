"""Updates as they were decoded to be checked, kept for the mean of their round.

Decoding is a function of the payload, so a kept update is what decoding it again would give, bit for bit.
What does not fit is decoded again from the disk, as everything is after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass

from compression.spec import ModelSpec, Weights
from compression.updates import Decoded, decode_update
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import TrainingReport
from edge_client.wire.variates import split_payload, variate_digest

KEPT_BYTES = 64 << 20  # 200 updates of 71,000 parameters, or three of five million


@dataclass(frozen=True, slots=True)
class DecodedResult:
    """A device's update, and with SCAFFOLD the change of its control variate."""

    update: Decoded
    variate: Decoded | None = None

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        parts = [self.update, *filter(None, [self.variate])]
        return sum(array.nbytes for part in parts for array in part.delta.values())

    @property
    def change(self) -> Weights | None:
        """Of the control variate."""
        return self.variate.delta if self.variate else None


def decode_result(
    payload: bytes, report: TrainingReport, shared: ModelSpec, bundle_digest: str
) -> DecodedResult:
    """Take a payload apart; raise `CodecError` if it is not of this model."""
    body, change = split_payload(payload, report.variate_bytes)
    update = decode_update(body, shared.tensors, model_digest=bundle_digest)
    if not change:
        return DecodedResult(update)
    tensors = shared.trainable.tensors
    return DecodedResult(update, decode_update(change, tensors, model_digest=variate_digest(bundle_digest)))


class DecodedResults:
    """Of the round at work, as many as fit."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._left = self._limit = limit
        self._kept: dict[tuple[str, int], DecodedResult] = {}

    def keep(self, payload: BlobRef, report: TrainingReport, decoded: DecodedResult) -> None:
        """Keep one for the mean if there is room."""
        key = payload.digest, report.variate_bytes
        if key not in self._kept and decoded.nbytes <= self._left:
            self._kept[key] = decoded
            self._left -= decoded.nbytes

    def of(self, payload: BlobRef, report: TrainingReport) -> DecodedResult | None:
        """What was kept of a payload; None where it is to be decoded."""
        return self._kept.get((payload.digest, report.variate_bytes))

    def clear(self) -> None:
        """The round is over."""
        self._kept.clear()
        self._left = self._limit
