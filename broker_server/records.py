"""What the server writes down about versions and rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from broker_server.cohort import Selection
from compression.records import Between, Record
from edge_client.wire.blobs import BlobRef, Digest
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.fields import Number, Word
from edge_client.wire.presence import Health
from edge_client.wire.topics import DeviceName
from edge_client.wire.weights import DeltaRef


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
    seconds: float  # of its training, as it says; never more than `answered_s`
    bytes_up: int
    bytes_down: int
    health: Health | None = None
    staleness: Number = 0  # versions that were made since the one it began from
    variate_bytes: Number = 0  # of the payload: the control variate's change
    answered_s: float = 0.0  # from its task to its result, by the server's clock; 0 in older records


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
    released: tuple[DeviceName, ...] = ()  # still at work when there were enough results
    selection: Selection | None = None  # None when everyone was asked
    codec_up: Word = ""  # profiles that the round was coded with
    codec_down: Word = ""
    evaluation: EvaluationSums | None = None
    federated: EvaluationSums | None = None
    sparsity: Annotated[float, Between(0, 1)] | None = None  # zeros in the kernels, where the run prunes


@dataclass(frozen=True, slots=True)
class VersionLine(Record):
    """The newest versions of a line that is not the weights'."""

    versions: tuple[VersionRecord, ...]


@dataclass(frozen=True, slots=True)
class StrategyRecord(Record):
    """What a strategy remembers, set by set, as `compression.spec.pack_weights` of the trainable tensors."""

    slots: Mapping[str, BlobRef]


@dataclass(frozen=True, slots=True)
class FineTuning(Record):
    """What local fine-tuning came to on each device's validation examples: the fleet's model, its own."""

    before: Mapping[DeviceName, EvaluationSums]
    after: Mapping[DeviceName, EvaluationSums]
