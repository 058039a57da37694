"""The devices in the report: what each has, what it cost, and how the models do on its own examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from broker_server.report.fields import Amount, Count, LatencyFigures, Share, Word
from compression.records import Length, Record
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.summary import Label
from edge_client.wire.topics import DeviceName


@dataclass(frozen=True, slots=True)
class GateFigures(Record):
    """What the device's gate made of the released model, on the device's own validation examples.

    ``reference_accuracy`` is that of the float32 weights on the same examples.
    """

    verdict: Literal["activated", "refused", "rolled-back"] | None = None
    reason: Annotated[str, Length(0, 2000)] = ""
    accuracy: Share | None = None
    reference_accuracy: Share | None = None
    examples: Count | None = None


@dataclass(frozen=True, slots=True)
class OwnFigures(Record):
    """How the final weights do on one device's own validation examples.

    Recall and false negatives are of the second of two classes; None for more classes.
    """

    examples: Count | None = None
    accuracy: Share | None = None
    recall: Share | None = None
    false_negatives: Count | None = None
    false_positives: Count | None = None
    auc: Share | None = None

    @classmethod
    def of(cls, sums: EvaluationSums) -> OwnFigures:
        """From a device's counts."""
        negatives = positives = None
        if sums.classes == 2:
            _, positives, negatives, _ = sums.confusion
        return cls(sums.examples, sums.accuracy, sums.recall, negatives, positives, sums.auc)


@dataclass(frozen=True, slots=True)
class ClientFigures(Record):
    """One device: what it has, what it cost, what it runs now."""

    name: DeviceName
    examples: Mapping[Label, Count] = field(default_factory=dict)  # training examples of each class
    validation_examples: Count | None = None
    skipped: Count | None = None  # files that could not be read
    rounds: Count | None = None  # in which its update was counted
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    peak_rss_mb: Amount | None = None
    imports_tensorflow: bool | None = None
    runtime: Word | None = None
    architecture: Word | None = None
    board: Word | None = None
    model_version: Count | None = None
    gate: GateFigures = GateFigures()
    int8_latency_ms: LatencyFigures = LatencyFigures()
    own: OwnFigures = OwnFigures()
    fleet_accuracy: Share | None = None  # on its validation examples, before local fine-tuning ...
    tuned_accuracy: Share | None = None  # ... and after it

    @property
    def training_examples(self) -> int:
        """Number of training examples."""
        return sum(self.examples.values())
