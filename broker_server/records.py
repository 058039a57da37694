"""What the server writes down about versions and rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compression.records import Record
from edge_client.wire.blobs import BlobRef, Digest
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.messages import DeltaRef, Health, Number


@dataclass(frozen=True, slots=True)
class VersionRecord(Record):
    """One version of the fleet's weights and how to get there."""

    version: Number
    digest: Digest  # of the weights
    full: BlobRef
    step: DeltaRef | None = None  # from the version before; None for the first
    residual: BlobRef | None = None  # the server's own error feedback after the step


@dataclass(frozen=True, slots=True)
class ClientRecord(Record):
    """One device's part in a round. Bytes are of MQTT PUBLISH packets, headers included."""

    examples: int
    loss: float
    seconds: float
    bytes_up: int
    bytes_down: int
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord(Record):
    """What a round came to.

    ``evaluation`` is of the round's new weights on the server's held-out examples, ``federated`` on
    the devices' own; the latter arrives with the next round's results.
    """

    round: int
    version: Number
    started: float  # seconds since 1970
    seconds: float
    clients: Mapping[str, ClientRecord]
    dropped: Mapping[str, str]  # device: reason
    dropped_bytes_down: int = 0  # sent to devices that were asked and not counted
    evaluation: EvaluationSums | None = None
    federated: EvaluationSums | None = None
