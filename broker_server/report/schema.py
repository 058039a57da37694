"""`RunReport`: everything that is known of a finished run, as one frozen value.

Every view (`terminal`, `json_view`, `html`) is a function of this value, and its plain form is the
``--json`` output, so a figure cannot be on the page and missing from the JSON. What was not measured is
``None``, never a guess; the views then say "not measured".

Accuracies are shares from 0 to 1, losses natural logarithms, times seconds or milliseconds as the name
says. "Held out" is the test set that only the server has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Literal

from broker_server.report.calibration import CalibrationFigures
from compression.records import Between, Length, Record, RecordError
from edge_client.wire.evaluation import MAX_CLASSES, EvaluationSums
from edge_client.wire.summary import Label
from edge_client.wire.topics import DeviceName

Word = Annotated[str, Length(1, 200)]
Sentence = Annotated[str, Length(1, 2000)]
Share = Annotated[float, Between(0, 1)]
Amount = Annotated[float, Between(0, 1e18)]
Ratio = Annotated[float, Between(1e-9, 1e18)]
Count = Annotated[int, Between(0, 1 << 53)]
Confusion = Annotated[tuple[tuple[Count, ...], ...], Length(0, MAX_CLASSES)]

SIMULATED_NOTE = "The devices were processes on this {machine} host, not Raspberry Pis."


@dataclass(frozen=True, slots=True)
class RoundFigures(Record):
    """One finished round.

    Attributes:
        accuracy, loss, auc: of the new global weights on the held-out examples.
        federated_accuracy: of the same weights over the devices' own validation examples, pooled by
            counts; devices evaluate what the next round brings them, so it is the last figure to come.
        clients: whose updates were counted.
        dropped: who was asked and not counted, and why.
        released: who was still at work when there were enough results.
        sparsity: share of zeros among the kernels of the new weights, where the run prunes.
        chosen, passed: who was asked and who was not, and why; empty where everyone is asked.
        bytes_up, bytes_down: of all devices together in this round.
    """

    round: Count
    accuracy: Share | None = None
    loss: float | None = None
    auc: Share | None = None
    federated_accuracy: Share | None = None
    clients: tuple[DeviceName, ...] = ()
    dropped: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    released: tuple[DeviceName, ...] = ()
    chosen: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    passed: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    seconds: Amount | None = None
    sparsity: Share | None = None


@dataclass(frozen=True, slots=True)
class FinalFigures(Record):
    """The last global model on the held-out examples; ``int8_`` is the file that was released.

    ``confusion_matrix`` is of the float32 weights, rows are true classes, columns predicted ones, in the
    order of `DataFigures.classes`; empty when not measured.
    """

    accuracy: Share | None = None
    loss: float | None = None
    auc: Share | None = None
    int8_accuracy: Share | None = None
    int8_loss: float | None = None
    int8_auc: Share | None = None
    examples: Count = 0
    confusion_matrix: Confusion = ()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if any(len(row) != len(self.confusion_matrix) for row in self.confusion_matrix):
            raise RecordError("FinalFigures.confusion_matrix must be square")

    @classmethod
    def of(cls, float32: EvaluationSums | None, int8: EvaluationSums | None) -> FinalFigures:
        """From the two evaluations of the held-out examples."""
        return cls(
            accuracy=float32.accuracy if float32 else None,
            loss=float32.loss if float32 else None,
            auc=float32.auc if float32 else None,
            int8_accuracy=int8.accuracy if int8 else None,
            int8_loss=int8.loss if int8 else None,
            int8_auc=int8.auc if int8 else None,
            examples=float32.examples if float32 else int8.examples if int8 else 0,
            confusion_matrix=_rows(float32) if float32 else (),
        )


def _rows(sums: EvaluationSums) -> tuple[tuple[int, ...], ...]:
    n = sums.classes
    return tuple(sums.confusion[start : start + n] for start in range(0, n * n, n))


@dataclass(frozen=True, slots=True)
class CentralisedFigures(Record):
    """The same model trained in one place on all devices' examples, on the held-out examples."""

    accuracy: Share | None = None
    loss: float | None = None
    auc: Share | None = None
    epochs: Count | None = None
    seconds: Amount | None = None

    @classmethod
    def of(cls, sums: EvaluationSums, *, epochs: int, seconds: float) -> CentralisedFigures:
        """From the evaluation of the held-out examples."""
        return cls(sums.accuracy, sums.loss, sums.auc, epochs, seconds)


@dataclass(frozen=True, slots=True)
class LocalOnlyFigures(Record):
    """The same model trained by each client alone, on the held-out examples; means count clients alike."""

    accuracy_mean: Share | None = None
    loss_mean: float | None = None
    auc_mean: Share | None = None
    accuracy: Mapping[DeviceName, Share] = field(default_factory=dict)

    @classmethod
    def of(cls, evaluations: Mapping[str, EvaluationSums]) -> LocalOnlyFigures:
        """From the evaluation of each client's own model on the held-out examples."""
        sums = evaluations.values()
        return cls(
            accuracy_mean=_mean(each.accuracy for each in sums),
            loss_mean=_mean(each.loss for each in sums),
            auc_mean=_mean(each.auc for each in sums),
            accuracy={name: each.accuracy for name, each in evaluations.items() if each.accuracy is not None},
        )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@dataclass(frozen=True, slots=True)
class ByteFigures(Record):
    """Traffic of training. Ratios say how many times less was sent than plain float32 weights would be.

    Attributes:
        up_per_client_round: mean over every update that was counted.
        down_per_client_round: mean over every device that was asked, counted in the end or not.
        setup_total: to all devices together, once a run: the training program and the first weights.
        closing_up_total: from all devices together after the last round: their evaluation of its weights.
        counted: what the figures include, as a sentence.
    """

    float32_per_client_round: Count | None = None
    up_per_client_round: Amount | None = None
    down_per_client_round: Amount | None = None
    ratio_up: Ratio | None = None
    ratio_down: Ratio | None = None
    up_total: Count | None = None
    down_total: Count | None = None
    setup_total: Count | None = None
    closing_up_total: Count | None = None
    counted: Sentence | None = None

    @classmethod
    def of(
        cls,
        rounds: Sequence[RoundFigures],
        *,
        float32_bytes: int,
        setup_total: int | None = None,
        closing_up_total: int | None = None,
        counted: str | None = None,
    ) -> ByteFigures:
        """From the rounds; `float32_bytes` is the size of all weights as plain float32."""
        up = _total([r.bytes_up for r in rounds])
        down = _total([r.bytes_down for r in rounds])
        up_mean = _per(up, sum(len(r.clients) for r in rounds))
        down_mean = _per(down, sum(len(r.clients) + len(r.dropped) + len(r.released) for r in rounds))
        return cls(
            float32_per_client_round=float32_bytes,
            up_per_client_round=up_mean,
            down_per_client_round=down_mean,
            ratio_up=float32_bytes / up_mean if up_mean and float32_bytes else None,
            ratio_down=float32_bytes / down_mean if down_mean and float32_bytes else None,
            up_total=up,
            down_total=down,
            setup_total=setup_total,
            closing_up_total=closing_up_total,
            counted=counted,
        )


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _per(total: int | None, parts: int) -> float | None:
    return total / parts if total is not None and parts else None


@dataclass(frozen=True, slots=True)
class LatencyFigures(Record):
    """Time of one inference of one example, after warm-up."""

    p50: Amount | None = None
    p99: Amount | None = None
    runs: Count | None = None


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


@dataclass(frozen=True, slots=True)
class ModelFigures(Record):
    """The model and the two files it became; latencies are of the server's machine, one thread."""

    name: Word
    parameters: Count
    float32_bytes: Count | None = None
    int8_bytes: Count | None = None
    int8_calibration: Literal["full-integer", "dynamic-range", "none"] | None = None
    float32_latency_ms: LatencyFigures = LatencyFigures()
    int8_latency_ms: LatencyFigures = LatencyFigures()
    float32_zipped_bytes: Count | None = None
    int8_zipped_bytes: Count | None = None


@dataclass(frozen=True, slots=True)
class DataFigures(Record):
    """What was learned from."""

    kind: Literal["image", "table"]
    classes: Annotated[tuple[Label, ...], Length(2, 4096)]
    training_examples: Count
    held_out_examples: Count
    partition: Word | None = None
    description: Sentence | None = None


@dataclass(frozen=True, slots=True)
class Incident(Record):
    """Something that went wrong during the run, and how the run went on."""

    at_s: Amount  # since the run began
    who: Word
    what: Sentence
    survived_by: Sentence | None = None  # None: it was not survived


@dataclass(frozen=True, slots=True)
class Environment(Record):
    """The server's machine; in a simulation the devices' too."""

    architecture: Word | None = None
    processor: Word | None = None
    cores: Count | None = None
    memory_mb: Amount | None = None
    system: Word | None = None
    python: Word | None = None
    packages: Mapping[Word, Word] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunReport(Record):
    """A finished run. `settings` are the choices it was made with, in words for people."""

    dataset: Word
    devices: Count
    broker: Word
    wall_s: Amount
    data: DataFigures
    model: ModelFigures
    calibration: CalibrationFigures | None = None
    rounds: tuple[RoundFigures, ...] = ()
    final: FinalFigures = FinalFigures()
    centralised: CentralisedFigures = CentralisedFigures()
    local_only: LocalOnlyFigures = LocalOnlyFigures()
    bytes: ByteFigures = ByteFigures()
    clients: tuple[ClientFigures, ...] = ()
    incidents: tuple[Incident, ...] = ()
    settings: Mapping[Word, Word] = field(default_factory=dict)
    environment: Environment = Environment()
    simulated: bool = False
    simulated_note: Sentence | None = None
    started: Word | None = None  # UTC, ISO 8601
    report_version: Literal[1] = 1

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.simulated != (self.simulated_note is not None):
            raise RecordError(
                "RunReport: simulated_note says how a simulated run was simulated, and only then"
            )
        if self.final.confusion_matrix and len(self.final.confusion_matrix) != len(self.data.classes):
            raise RecordError("RunReport: the confusion matrix and the classes differ in number")
        for what, names in (
            ("round", [entry.round for entry in self.rounds]),
            ("client", [client.name for client in self.clients]),
        ):
            if len(set(names)) != len(names):
                raise RecordError(f"RunReport: a {what} is in the report twice")
