"""May a released model answer on this device? Its own held-out examples decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compression.spec import ModelSpec
from edge_client.data import Batch, LocalData, batches
from edge_client.inference.latency import Latency, measure_latency
from edge_client.inference.predictor import PredictionError, Predictor
from edge_client.wire.messages import GateRule


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The decision and what it rests on."""

    accepted: bool
    reason: str
    accuracy: float | None = None
    examples: int = 0
    latency: Latency | None = None


def run_gate(
    model: bytes,
    spec: ModelSpec,
    data: LocalData,
    rule: GateRule,
    reference_accuracy: float | None,
    *,
    threads: int = 1,
) -> GateVerdict:
    """Try a model on the device's validation examples.

    Args:
        model: the TFLite file.
        spec: of the model.
        data: the device's examples; the validation split is used.
        rule: what is asked.
        reference_accuracy: of the float32 weights on the same examples; None without any.
        threads: of the interpreter.
    """
    try:
        predictor = Predictor(model, spec, threads=threads)
    except PredictionError as exc:
        return GateVerdict(False, str(exc))
    right = examples = 0
    example = np.zeros(spec.input.shape, np.float32)
    for batch in _validation(data, spec):
        real = batch.weights > 0
        probabilities = predictor.predict(batch.inputs[real])
        if not np.isfinite(probabilities).all():
            return GateVerdict(False, "it answers with values that are not finite")
        right += int((probabilities.argmax(axis=1) == batch.labels[real]).sum())
        examples += int(real.sum())
        example = batch.inputs[0]
    latency = measure_latency(predictor, example)
    accuracy = right / examples if examples else None
    accepted, reason = _decide(rule, accuracy, examples, reference_accuracy, latency)
    return GateVerdict(accepted, reason, accuracy, examples, latency)


def _validation(data: LocalData, spec: ModelSpec) -> Iterator[Batch]:
    return batches(data, data.validation_index, spec)


def _decide(
    rule: GateRule, accuracy: float | None, examples: int, reference: float | None, latency: Latency
) -> tuple[bool, str]:
    if latency.p50_ms > rule.max_latency_ms:
        return False, f"an answer takes {latency.p50_ms:.3g} ms, {rule.max_latency_ms:g} ms are allowed"
    if accuracy is None or examples < rule.min_examples:
        return False, f"{examples} validation examples, {rule.min_examples} are asked for"
    if reference is not None and accuracy < reference - allowed_drop(rule, examples):
        return False, f"accuracy {accuracy:.3f}, the float32 weights have {reference:.3f}"
    return True, f"accuracy {accuracy:.3f} on {examples} examples, {latency.p50_ms:.3g} ms an answer"


def allowed_drop(rule: GateRule, examples: int) -> float:
    """The rule's share, and always one example: on 15 examples a single one is 0.067."""
    return max(rule.max_accuracy_drop, 1 / examples) + 1e-9
