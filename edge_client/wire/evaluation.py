"""Sums from which the quality of a model over the whole fleet follows, without any example leaving.

Each device reports counts; counts add up; accuracy, the confusion matrix and the loss computed from
the added counts are those of the pooled data. The area under the ROC curve comes from histograms of
the positive class's probability: exact but for ties within a bin, that is to about 1 / SCORE_BINS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from compression.records import Between, Length, Record, RecordError

SCORE_BINS = 512
MAX_CLASSES = 64  # the confusion matrix travels whole: 4096 counts
MAX_COUNT = 1 << 40

Count = Annotated[int, Between(0, MAX_COUNT)]


@dataclass(frozen=True, slots=True)
class EvaluationSums(Record):
    """What one evaluation over some examples adds up to.

    Attributes:
        loss_sum: sum of the examples' losses, natural logarithm.
        confusion: row-major counts, classes x classes, true class by predicted class.
        scores: for two classes, triples (bin, negatives, positives) of the non-empty bins of the
            positive class's probability in ascending order; empty for more classes.
    """

    loss_sum: float
    confusion: Annotated[tuple[Count, ...], Length(4, MAX_CLASSES**2)]
    scores: Annotated[tuple[Count, ...], Length(0, 3 * SCORE_BINS)] = ()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.classes**2 != len(self.confusion):
            raise RecordError(f"EvaluationSums: {len(self.confusion)} counts are not a square matrix")
        bins = self.scores[::3]
        if len(self.scores) % 3 or any(b >= SCORE_BINS for b in bins) or list(bins) != sorted(set(bins)):
            raise RecordError("EvaluationSums: scores are not triples with ascending bins")
        if self.scores and sum(self.scores) - sum(bins) != self.examples:
            raise RecordError("EvaluationSums: scores and confusion count different examples")

    @classmethod
    def of(
        cls, labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating], loss_sum: float
    ) -> EvaluationSums:
        """Count predictions.

        Args:
            labels: [N] true class indices.
            probabilities: [N, classes], each row summing to 1.
            loss_sum: sum of the N losses.
        """
        classes = probabilities.shape[1]
        labels = labels.astype(np.intp)  # on 32-bit machines bincount takes nothing wider
        predicted = probabilities.argmax(axis=1)
        confusion = np.bincount(labels * classes + predicted, minlength=classes**2)
        scores: tuple[int, ...] = ()
        if classes == 2:
            bins = np.clip((probabilities[:, 1] * SCORE_BINS).astype(np.intp), 0, SCORE_BINS - 1)
            counts = np.bincount(2 * bins + labels, minlength=2 * SCORE_BINS).reshape(SCORE_BINS, 2)
            used = np.flatnonzero(counts.any(axis=1))
            scores = tuple(np.column_stack([used, counts[used]]).ravel().tolist())
        return cls(loss_sum=float(loss_sum), confusion=tuple(confusion.tolist()), scores=scores)

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        if len(self.confusion) != len(other.confusion):
            raise RecordError("EvaluationSums: different numbers of classes cannot be added")
        counts = self._score_counts() + other._score_counts()
        used = np.flatnonzero(counts.any(axis=1))
        return EvaluationSums(
            loss_sum=self.loss_sum + other.loss_sum,
            confusion=tuple(a + b for a, b in zip(self.confusion, other.confusion, strict=True)),
            scores=tuple(np.column_stack([used, counts[used]]).ravel().tolist()),
        )

    def _score_counts(self) -> npt.NDArray[np.int64]:
        counts = np.zeros((SCORE_BINS, 2), dtype=np.int64)
        triples = np.asarray(self.scores, dtype=np.int64).reshape(-1, 3)
        counts[triples[:, 0]] = triples[:, 1:]
        return counts

    @property
    def classes(self) -> int:
        """Number of classes."""
        return math.isqrt(len(self.confusion))

    @property
    def examples(self) -> int:
        """Number of examples evaluated."""
        return sum(self.confusion)

    @property
    def loss(self) -> float | None:
        """Mean loss; None without examples."""
        return self.loss_sum / self.examples if self.examples else None

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions; None without examples."""
        right = sum(self.confusion[i * self.classes + i] for i in range(self.classes))
        return right / self.examples if self.examples else None

    @property
    def precision(self) -> float | None:
        """Share of positives among those called positive; None without any."""
        return self._of_positives(lambda _fn, fp, tp: (tp, tp + fp))

    @property
    def recall(self) -> float | None:
        """Share of positives that were found, also called sensitivity; None without a positive."""
        return self._of_positives(lambda fn, _fp, tp: (tp, tp + fn))

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where neither is defined."""
        return self._of_positives(lambda fn, fp, tp: (2 * tp, 2 * tp + fp + fn))

    def _of_positives(self, share: Callable[[int, int, int], tuple[int, int]]) -> float | None:
        """A share of counts; the second of two classes is the positive one."""
        if self.classes != 2:
            return None
        _, false_positives, false_negatives, true_positives = self.confusion
        part, whole = share(false_negatives, false_positives, true_positives)
        return part / whole if whole else None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve (ties count half); None unless both of two classes occur."""
        negatives, positives = self._score_counts().T
        pairs = int(negatives.sum()) * int(positives.sum())
        if not pairs:
            return None
        below = np.cumsum(negatives) - negatives
        return float((positives * (below + negatives / 2)).sum() / pairs)
