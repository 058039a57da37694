"""Rounds: what the cohort is to do, what came of it, and the receipt. ``delta`` is local minus global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from compression.records import Between, Length, Matches, Record, RecordError
from compression.spec import Name as TensorName
from edge_client.wire.blobs import BlobRef
from edge_client.wire.calibration import CalibrationSums
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.fields import Amount, Cohort, Identifier, Message, Number, Text
from edge_client.wire.presence import Health
from edge_client.wire.ranges import RangesPlan
from edge_client.wire.topics import FleetName
from edge_client.wire.weights import WeightsRef

CodecName = Annotated[str, Matches(r"[a-z0-9_-]{1,32}")]


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
    over its examples, "idle" ends the run. The body, if there is one, is a blob of one chunk that the
    task names, so that most devices need nothing else: the newest step.
    """

    SIGNED: ClassVar[bool] = True
    HAS_BODY: ClassVar[bool] = True
    fleet: FleetName
    run: Identifier
    number: Number
    kind: Literal["statistics", "train", "evaluate", "finetune", "calibrate", "idle"]
    round: Number = 0
    cohort: Cohort = ()
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
class Receipt(Message):
    """The result is durable and counted, or will never be: the device may drop its copy.

    A device applies the residual of this update when ``accepted`` and forgets it otherwise.
    """

    SIGNED: ClassVar[bool] = True
    task: Number
    accepted: bool
    reason: Text = ""
