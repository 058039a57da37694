"""Rollouts: a released model and its gate, what became of it on a device, and how it does there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from compression.records import Between, Length, Record, RecordError
from edge_client.wire.blobs import BlobRef, Digest
from edge_client.wire.calibration import Answering
from edge_client.wire.fields import Amount, Cohort, Message, Number, Share, Text
from edge_client.wire.presence import Health
from edge_client.wire.topics import FleetName
from edge_client.wire.weights import WeightsRef

MAX_SOURCES = 8  # ways to get a model's file besides the file itself


@dataclass(frozen=True, slots=True)
class GateRule(Record):
    """What a released model must show on the device before it may answer."""

    max_accuracy_drop: Share = 0.05  # below the float32 weights on the same examples
    max_latency_ms: Amount = 1000.0  # p50 of one example
    min_examples: Number = 1
    max_memory_mb: Amount = 400.0  # largest resident memory of a process that does nothing but run it


@dataclass(frozen=True, slots=True)
class ModelSource(Record):
    """A shorter way to a model's file, for a device that holds the one it begins from.

    ``blob`` is as `edge_client.inference.patches` reads it; ``from_digest`` of None is a packed whole.
    """

    from_digest: Digest | None
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class WatchPlan(Record):
    """For how long after the switch a device says how the model does, and how often. In seconds."""

    seconds: Amount = 0.0
    every_s: Annotated[float, Between(0.05, 1e6)] = 60.0


@dataclass(frozen=True, slots=True)
class Release(Message):
    """A model to be gated and activated; retained.

    ``order`` grows with everything that is published, so a replay is recognised. ``version`` grows with
    every model; a smaller one than the active is taken only where ``rollback`` says so. Version 0 takes
    ``model`` back where there is none to go back to.
    """

    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    order: Number
    version: Number
    model: BlobRef
    bundle: BlobRef  # holds the spec: classes and preprocessing
    preparation: Digest  # of the classes and the preprocessing that the file was made for
    weights: WeightsRef  # the float32 weights it was made from, the gate's reference
    calibration: Literal["full-integer", "dynamic-range", "none"]
    extractor: BlobRef | None = None  # as in the task: the reference's weights take its features
    sources: Annotated[tuple[ModelSource, ...], Length(0, MAX_SOURCES)] = ()
    gate: GateRule = GateRule()
    answering: Answering = Answering()
    watch: WatchPlan = WatchPlan()
    rollback: bool = False
    cohort: Cohort = ()  # empty: everyone

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if not self.version and not self.rollback:
            raise RecordError("Release: version 0 is only for a rollback, to no model at all")

    @property
    def withdraws(self) -> bool:
        """Whether it takes a first model back: none is to answer."""
        return not self.version


@dataclass(frozen=True, slots=True)
class ReleaseReport(Message):
    """What became of a released model on this device."""

    order: Number  # of the release
    version: Number
    outcome: Literal["activated", "refused", "rolled-back"]
    reason: Text
    accuracy: Share | None = None
    reference_accuracy: Share | None = None
    examples: Number = 0
    latency_p50_ms: Amount | None = None
    latency_p99_ms: Amount | None = None
    active_version: Number = 0
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class ModelHealth(Message):
    """How the active model does after the switch: tried again on the device, and as it was used there."""

    version: Number
    accuracy: Share | None = None  # on the device's validation examples, as they are now
    examples: Number = 0
    latency_p50_ms: Amount | None = None
    problem: Text = ""  # why it does not answer; empty where it does
    answers: Number = 0  # that people and programs on the device got of this version
    errors: Number = 0  # answers that it failed to give
    unlike: Number = 0  # inputs that were refused as unlike the training data
