"""Is a result what its task asked for? What passes can be aggregated: closing a round cannot fail on it."""

from __future__ import annotations

import numpy as np

from broker_server.calibration import CalibrationError, read_report
from broker_server.decoded import DecodedResult, decode_result
from compression.errors import BrambleError
from compression.records import RecordError, loads
from compression.spec import ModelSpec
from compression.updates import CodecError, Decoded
from edge_client.data import ColumnStatistics
from edge_client.data.column_statistics import MAX_STATISTICS_BYTES
from edge_client.inference.likeness import feature_count, plausible
from edge_client.inference.sums import MAX_DESCRIBED
from edge_client.wire.blobs import BlobRef
from edge_client.wire.calibration import CalibrationSums
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.ranges import RangesPlan
from edge_client.wire.rounds import Result, Task, TrainingReport

MAX_STEP = 1e4  # a weight that moved further in one round is no training
MAX_LOSS = 1e4  # of an example: cross-entropy of float32 probabilities stays below 100
MAX_TEMPERED_LOSS = 100.0  # of an example at any temperature of the grid: 70 at the lowest


class RefusedError(BrambleError, ValueError):
    """A result cannot be accepted; the message goes back to the device."""


def max_payload_bytes(task: Task, parameters: int) -> int:
    """Most that a result of this task can need: no codec makes an update larger than twice float32."""
    if task.kind == "statistics":
        return MAX_STATISTICS_BYTES
    if task.ranges:
        return task.ranges.max_report_bytes
    updates = 2 if task.control else 1
    return updates * (8 * parameters + 65_536) if task.kind == "train" else 0


def check_result(
    task: Task, result: Result, payload: bytes, spec: ModelSpec | None, *, max_examples: int
) -> DecodedResult | None:
    """What a result of training decodes to; raise `RefusedError` unless it is what its task asked for."""
    try:
        if result.payload != (BlobRef.of(payload) if payload else None):
            raise RefusedError("the payload is not the one that the result names")
        if task.kind == "statistics":
            _check_statistics(task, payload)
        elif task.ranges:
            _check_ranges(task.ranges, result, payload)
        elif spec is not None:
            _check_evaluation(result.evaluation, spec, max_examples)
            _check_evaluation(result.tuned, spec, max_examples)
            _check_calibration(task, result, spec)
            _check_loss(result.training)
            return _checked_update(task, result, payload, spec)
    except (CodecError, RecordError, CalibrationError) as exc:
        raise RefusedError(str(exc)) from exc
    return None


def _check_statistics(task: Task, payload: bytes) -> None:
    statistics = loads(ColumnStatistics, payload, max_bytes=MAX_STATISTICS_BYTES)
    if tuple(column.name for column in statistics.columns) != task.columns:
        raise RefusedError("statistics of other columns than were asked for")


def _check_ranges(plan: RangesPlan, result: Result, payload: bytes) -> None:
    read_report(plan, payload)
    if any((result.training, result.evaluation, result.tuned, result.calibration)):
        raise RefusedError("more than the ranges that were asked for")


def _check_evaluation(sums: EvaluationSums | None, spec: ModelSpec, max_examples: int) -> None:
    if sums is None:
        return
    if sums.classes != len(spec.classes):
        raise RefusedError(f"an evaluation of {sums.classes} classes, the model has {len(spec.classes)}")
    if bool(sums.scores) != (len(spec.classes) == 2 and sums.examples > 0):
        raise RefusedError("an evaluation without its scores, or with scores it should not have")
    if sums.examples > max_examples or not 0 <= sums.loss_sum <= MAX_LOSS * max(sums.examples, 1):
        raise RefusedError(f"an evaluation of {sums.examples} examples with loss sum {sums.loss_sum:g}")


def _check_calibration(task: Task, result: Result, spec: ModelSpec) -> None:
    """What no examples have: it would make every device's answers wrong, or the sums impossible."""
    sums = result.calibration
    if sums is None:
        return
    if task.kind != "evaluate":
        raise RefusedError("calibration sums that were not asked for")
    if sums.examples != (result.evaluation.examples if result.evaluation else 0):
        raise RefusedError(f"calibration sums of {sums.examples} examples, the evaluation has others")
    if max(sums.losses, default=0.0) > MAX_TEMPERED_LOSS * sums.examples:
        raise RefusedError(f"calibration sums with a loss of {max(sums.losses):g}")
    if not _plausible_moments(sums, spec):
        raise RefusedError("calibration sums whose moments are no training examples'")


def _plausible_moments(sums: CalibrationSums, spec: ModelSpec) -> bool:
    if not sums.seen:
        return True
    fits = len(sums.features) == feature_count(spec.raw_input) and sums.seen <= MAX_DESCRIBED
    return fits and plausible(sums)


def _check_loss(report: TrainingReport | None) -> None:
    """The mean loss chooses cohorts and is in the record: it must be a number that can be reckoned with."""
    if report is not None and not 0 <= report.loss <= MAX_LOSS:
        raise RefusedError(f"a training loss of {report.loss:g}")


def _checked_update(task: Task, result: Result, payload: bytes, spec: ModelSpec) -> DecodedResult | None:
    if task.kind != "train":
        if payload:
            raise RefusedError(f"a payload for a task of kind {task.kind}")
        return None
    if result.training is None or task.bundle is None or not payload:
        raise RefusedError("an update without its payload or its training report")
    if (result.training.variate_bytes > 0) != (task.control is not None):
        raise RefusedError("a control variate that was not asked for, or none where one was")
    decoded = decode_result(payload, result.training, spec.without(task.personal), task.bundle.digest)
    check_steps(decoded.update, task.round)
    if decoded.variate is not None:
        check_steps(decoded.variate, task.round)
    return decoded


def check_steps(update: Decoded, round_number: int) -> None:
    """Raise `RefusedError` for an update of another round, or one that no training can have made."""
    if update.round_number != round_number:
        raise RefusedError(f"an update of round {update.round_number}, this is round {round_number}")
    for name, delta in update.delta.items():
        if not np.abs(delta).max(initial=0.0) <= MAX_STEP:  # NaN compares false
            raise RefusedError(f"{name} moved by more than {MAX_STEP:g}")
