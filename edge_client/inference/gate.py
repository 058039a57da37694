"""May a released model answer on this device? Its own held-out examples decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from compression.records import Between, Length, Record
from compression.spec import ModelSpec
from edge_client.data import LocalData, batches
from edge_client.inference.latency import Latency, measure_latency
from edge_client.inference.predictor import PredictionError, Predictor
from edge_client.inference.trial import try_model
from edge_client.wire.blobs import sha256
from edge_client.wire.messages import GateRule

MAX_REASON = 500
ROUNDING = 1e-9  # shares are quotients: 0.95 - 0.05 may miss 0.9 by the last bit


@dataclass(frozen=True, slots=True)
class GateVerdict(Record):
    """The decision and what it rests on; what was not measured is None."""

    accepted: bool
    reason: Annotated[str, Length(0, MAX_REASON)]
    accuracy: Annotated[float, Between(0, 1)] | None = None
    examples: Annotated[int, Between(0, 1 << 53)] = 0
    latency: Latency | None = None
    peak_rss_mb: Annotated[float, Between(0, 1e9)] | None = None  # of a process that only runs the model


@dataclass(frozen=True, slots=True)
class _Score:
    right: int
    examples: int
    finite: bool
    example: np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # one of them, to measure latency with


def run_gate(
    model: bytes,
    spec: ModelSpec,
    data: LocalData,
    rule: GateRule,
    reference_accuracy: float | None,
    *,
    threads: int = 1,
    digest: str | None = None,
) -> GateVerdict:
    """Try a model on the device's validation examples. A broken model is refused, never an exception.

    Args:
        model: the TFLite file.
        spec: of the model.
        data: the device's examples; the validation split is used.
        rule: what is asked.
        reference_accuracy: of the float32 weights on the same examples; None without any.
        threads: of the interpreter.
        digest: SHA-256 the file must have, where the caller has not checked it already.
    """
    if digest is not None and sha256(model) != digest:
        return refusal("the model file is not the one that was signed")
    trial = try_model(model, spec, threads=threads)
    if not trial.ran:
        return refusal(trial.reason)
    try:
        predictor = Predictor(model, spec, threads=threads)
        score = _score(predictor, spec, data)
        latency = measure_latency(predictor, score.example)
    except PredictionError as exc:
        return refusal(str(exc))
    accuracy = score.right / score.examples if score.examples else None
    accepted, reason = _decide(rule, score, accuracy, reference_accuracy, latency)
    return GateVerdict(accepted, reason, accuracy, score.examples, latency, trial.peak_rss_mb)


def refusal(reason: str) -> GateVerdict:
    """A verdict without figures."""
    return GateVerdict(False, reason[:MAX_REASON] or "no reason is known")


def _score(predictor: Predictor, spec: ModelSpec, data: LocalData) -> _Score:
    right = examples = 0
    finite = True
    example = np.zeros(spec.input.shape, np.float32)
    for batch in batches(data, data.validation_index, spec):
        real = batch.weights > 0
        probabilities = predictor.predict(batch.inputs[real])
        finite = finite and bool(np.isfinite(probabilities).all())
        right += int((probabilities.argmax(axis=1) == batch.labels[real]).sum())
        examples += int(real.sum())
        example = batch.inputs[0]
    return _Score(right, examples, finite, example)


def _decide(
    rule: GateRule, score: _Score, accuracy: float | None, reference: float | None, latency: Latency
) -> tuple[bool, str]:
    if not score.finite:
        return False, "it answers with values that are not finite"
    if latency.p50_ms > rule.max_latency_ms:
        return False, f"an answer takes {latency.p50_ms:.3g} ms, {rule.max_latency_ms:g} ms are allowed"
    if score.examples < rule.min_examples:
        return False, f"{score.examples} validation examples, {rule.min_examples} are asked for"
    if accuracy is None:
        return True, f"no validation examples to judge by; {latency.p50_ms:.3g} ms an answer"
    if reference is not None and accuracy < reference - allowed_drop(rule, score.examples):
        return False, f"accuracy {accuracy:.3f}, the float32 weights have {reference:.3f}"
    return True, f"accuracy {accuracy:.3f} on {score.examples} examples, {latency.p50_ms:.3g} ms an answer"


def allowed_drop(rule: GateRule, examples: int) -> float:
    """The rule's share, and always one example: on 15 examples a single one is 0.067."""
    return max(rule.max_accuracy_drop, 1 / examples) + ROUNDING
