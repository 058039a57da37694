"""On the held-out examples: the last global model, and the baselines that it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated

from broker_server.report.fields import Amount, Count, Share
from compression.records import Length, Record, RecordError
from edge_client.wire.evaluation import MAX_CLASSES, EvaluationSums
from edge_client.wire.topics import DeviceName

Confusion = Annotated[tuple[tuple[Count, ...], ...], Length(0, MAX_CLASSES)]


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
