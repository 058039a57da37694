"""The messages, one frozen record each. What a peer may put in a field stands in its annotation.

Who sent a message is never in the message: it is read from the topic (`edge_client.wire.topics`).
``delta`` everywhere is local minus global.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from compression.records import Between, Length, Matches, Record, RecordError
from compression.spec import Name as TensorName
from edge_client.wire.blobs import BlobRef, Digest
from edge_client.wire.calibration import Answering, CalibrationSums
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.measurement import Measurement, MeasurePlan
from edge_client.wire.ranges import RangesPlan
from edge_client.wire.summary import DataSummary
from edge_client.wire.topics import DeviceName, FleetName

MAX_COHORT = 4096
MAX_SOURCES = 8  # ways to get a model's file besides the file itself
MAX_CHAIN = 16  # deltas offered to a device that is some rounds behind; beyond that a full model is smaller

Identifier = Annotated[str, Matches(r"[0-9a-f]{16}")]
Text = Annotated[str, Length(0, 500)]
Word = Annotated[str, Length(0, 100)]
Number = Annotated[int, Between(0, 1 << 53)]
Index = Annotated[int, Between(0, 1 << 20)]
Amount = Annotated[float, Between(0, 1e15)]
Share = Annotated[float, Between(0, 1)]
CodecName = Annotated[str, Matches(r"[a-z0-9_-]{1,32}")]


@dataclass(frozen=True, slots=True)
class Message(Record):
    """Base of all messages."""

    TYPE: ClassVar[int] = 0
    SIGNED: ClassVar[bool] = False
    HAS_BODY: ClassVar[bool] = False


# ---- device to server ----


@dataclass(frozen=True, slots=True)
class Presence(Message):
    """Retained, and the last will: whether the device is connected."""

    TYPE: ClassVar[int] = 1
    state: Literal["online", "offline"]
    session: Identifier  # of the process, so that an old process's last will does not hide a new one


@dataclass(frozen=True, slots=True)
class Health(Record):
    """The device's own state; None where there is no sensor."""

    peak_rss_mb: Amount
    free_memory_mb: Amount
    free_disk_mb: Amount
    temperature_c: Annotated[float, Between(-60, 200)] | None = None
    throttled: bool | None = None
    on_mains: bool | None = None
    imports_tensorflow: bool = False


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Sent after each connection: what the device is and what it has."""

    TYPE: ClassVar[int] = 2
    session: Identifier
    version: Word
    architecture: Word
    board: Word  # as the device tree names it; empty where there is none
    python: Word
    runtime: Word
    cores: Annotated[int, Between(1, 4096)]
    memory_mb: Amount
    data: DataSummary
    health: Health
    model_version: Number = 0  # of the active release; 0 without one


@dataclass(frozen=True, slots=True)
class TrainingReport(Record):
    """What local training came to."""

    examples: Annotated[int, Between(1, 1 << 40)]
    steps: Annotated[int, Between(0, 1 << 40)]
    loss: float
    seconds: Amount
    base_version: Number
    variate_bytes: Annotated[int, Between(0, 1 << 27)] = 0  # at the end of the payload: the variate's change


@dataclass(frozen=True, slots=True)
class Result(Message):
    """The outcome of a task. The payload is the body when it fits, else it is uploaded in chunks.

    ``evaluation`` is of the weights that came with the task, on the device's validation examples,
    taken before training.
    """

    TYPE: ClassVar[int] = 3
    HAS_BODY: ClassVar[bool] = True
    task: Number
    status: Literal["done", "failed"]
    reason: Text = ""
    payload: BlobRef | None = None
    training: TrainingReport | None = None
    evaluation: EvaluationSums | None = None
    tuned: EvaluationSums | None = None  # of a "finetune" task: after it
    calibration: CalibrationSums | None = None  # of an "evaluate" task
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class BlobRequest(Message):
    """Please send these chunks again, on my own topic."""

    TYPE: ClassVar[int] = 4
    blob: Digest
    chunks: Annotated[tuple[Index, ...], Length(1, 16)]


@dataclass(frozen=True, slots=True)
class ReleaseReport(Message):
    """What became of a released model on this device."""

    TYPE: ClassVar[int] = 5
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

    TYPE: ClassVar[int] = 40
    version: Number
    accuracy: Share | None = None  # on the device's validation examples, as they are now
    examples: Number = 0
    latency_p50_ms: Amount | None = None
    problem: Text = ""  # why it does not answer; empty where it does
    answers: Number = 0  # that people and programs on the device got of this version
    errors: Number = 0  # answers that it failed to give
    unlike: Number = 0  # inputs that were refused as unlike the training data


# ---- both ways ----


@dataclass(frozen=True, slots=True)
class Chunk(Message):
    """One chunk of a blob; the body is the data, checked against the digest in the manifest."""

    TYPE: ClassVar[int] = 6
    HAS_BODY: ClassVar[bool] = True
    blob: Digest
    index: Index


# ---- server to devices ----


@dataclass(frozen=True, slots=True)
class Grant(Message):
    """An upload slot: please send these chunks of your payload now."""

    TYPE: ClassVar[int] = 17
    SIGNED: ClassVar[bool] = True
    task: Number
    blob: Digest
    chunks: Annotated[tuple[Index, ...], Length(1, 16)]


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """The result is durable and counted, or will never be: the device may drop its copy.

    A device applies the residual of this update when ``accepted`` and forgets it otherwise.
    """

    TYPE: ClassVar[int] = 18
    SIGNED: ClassVar[bool] = True
    task: Number
    accepted: bool
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class HelloRequest(Message):
    """Please introduce yourself again: the broker says you are there, and no hello has come.

    A hello is lost when a device connects before the server has ever subscribed.
    """

    TYPE: ClassVar[int] = 19
    SIGNED: ClassVar[bool] = True
    session: Identifier  # as the presence says it


@dataclass(frozen=True, slots=True)
class DeltaRef(Record):
    """A step from one version of the weights to the next, coded by `compression.updates`.

    With ``sparsity`` it ends as `compression.sparsity.pruned_step` says.
    """

    from_digest: Digest
    to_digest: Digest
    blob: BlobRef
    sparsity: Share | None = None


@dataclass(frozen=True, slots=True)
class WeightsRef(Record):
    """A version of the weights and the ways to get there.

    ``digest`` is `compression.spec.weights_digest`. ``steps`` lead one after the other to it; a device
    that holds the start of one of them fetches from there, any other fetches ``full``.
    """

    version: Number
    digest: Digest
    full: BlobRef
    steps: Annotated[tuple[DeltaRef, ...], Length(0, MAX_CHAIN)] = ()


@dataclass(frozen=True, slots=True)
class TrainingPlan(Record):
    """How to train locally, and how to code what comes out."""

    epochs: Annotated[int, Between(1, 10_000)]
    learning_rate: Annotated[float, Between(0, 1e3)]
    codec: CodecName
    augment: bool = True
    balance: bool = False  # weigh the examples so that each class that the device has counts the same
    seed: Number = 0  # with the round and the device's name: of the examples' order, augmentation and dropout
    proximal_mu: Annotated[float, Between(0, 1e3)] = 0.0  # how strongly the weights of the task hold it back
    keep_zeros: bool = False  # nothing is owed to kernel weights that are zero in the task's model


@dataclass(frozen=True, slots=True)
class Task(Message):
    """What the cohort is to do now; retained, so that a device that comes late finds it.

    ``number`` only ever grows in a fleet, so a replayed task is recognised. Kinds: "statistics" asks
    for `ColumnStatistics` of the columns, "train" for an update, "evaluate" for an evaluation alone,
    "finetune" for a model of the device's own and its evaluation, "calibrate" for `ActivationRanges`
    over its examples, "idle" ends the run.
    """

    TYPE: ClassVar[int] = 20
    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    run: Identifier
    number: Number
    kind: Literal["statistics", "train", "evaluate", "finetune", "calibrate", "idle"]
    round: Number = 0
    cohort: Annotated[tuple[DeviceName, ...], Length(0, MAX_COHORT)] = ()
    columns: Annotated[tuple[Annotated[str, Length(1, 128)], ...], Length(0, 4096)] = ()
    bundle: BlobRef | None = None
    extractor: BlobRef | None = None  # manifest, in a blob, of a transfer model's frozen part
    weights: WeightsRef | None = None
    training: TrainingPlan | None = None
    control: WeightsRef | None = None  # the fleet's control variate, of the trainable tensors
    personal: Annotated[tuple[TensorName, ...], Length(0, 4096)] = ()  # tensors that stay on the device
    patient: bool = False  # a device that trains for an older task finishes that one first
    ranges: RangesPlan | None = None

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.kind in ("train", "evaluate", "finetune") and not (self.bundle and self.weights):
            raise RecordError(f"Task: {self.kind} needs a bundle and weights")
        if self.kind in ("train", "finetune") and not self.training:
            raise RecordError(f"Task: {self.kind} needs a training plan")
        if self.kind == "statistics" and not self.columns:
            raise RecordError("Task: statistics needs columns")
        if self.kind == "calibrate" and not (self.bundle and self.ranges):
            raise RecordError("Task: calibrate needs a bundle and a plan for ranges")


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
    every model; a smaller one than the active is taken only where ``rollback`` says so.
    """

    TYPE: ClassVar[int] = 21
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
    cohort: Annotated[tuple[DeviceName, ...], Length(0, MAX_COHORT)] = ()  # empty: everyone


@dataclass(frozen=True, slots=True)
class Upgrade(Message):
    """Another client for one device. ``number`` only ever grows, so a replayed one is recognised.

    A client older than the running one is installed only where ``rollback`` says that it is meant.
    """

    TYPE: ClassVar[int] = 45
    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    number: Number
    build: Number
    version: Word
    target: Word  # the system that the client is made for
    archive: BlobRef
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class UpgradeReport(Message):
    """What became of an upgrade: it waits to be installed, runs, was refused, or did not come online."""

    TYPE: ClassVar[int] = 46
    number: Number
    build: Number
    outcome: Literal["staged", "running", "refused", "rolled-back"]
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class LatencyRequest(Message):
    """Measure a model's speed, when there is nothing else to do; without a file, the active one.

    ``number`` only ever grows, so a replayed request is recognised.
    """

    TYPE: ClassVar[int] = 50
    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    number: Number
    expires: Number  # seconds since 1970; not carried out later than that
    model: BlobRef | None = None
    plan: MeasurePlan = MeasurePlan()


@dataclass(frozen=True, slots=True)
class LatencyReport(Message):
    """What a request came to: figures, or why there are none."""

    TYPE: ClassVar[int] = 51
    number: Number
    outcome: Literal["measured", "refused", "failed"]
    reason: Text = ""
    measurement: Measurement | None = None


@dataclass(frozen=True, slots=True)
class LatencyProgress(Message):
    """The request has come, and this is what it waits for."""

    TYPE: ClassVar[int] = 52
    number: Number
    state: Literal["waiting", "fetching", "measuring"]
    reason: Text = ""


MESSAGE_TYPES: Mapping[int, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Presence,
        Hello,
        Result,
        BlobRequest,
        ReleaseReport,
        ModelHealth,
        Chunk,
        Grant,
        Receipt,
        HelloRequest,
        Task,
        Release,
        Upgrade,
        UpgradeReport,
        LatencyRequest,
        LatencyReport,
        LatencyProgress,
    )
}
