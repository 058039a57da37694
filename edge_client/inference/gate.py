"""May a released model answer on this device? Its own held-out examples decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from compression.records import Between, Length, Record, dumps
from compression.spec import ModelSpec
from edge_client.data import LocalData, batches
from edge_client.inference.latency import Latency, measure_latency
from edge_client.inference.predictor import PredictionError, Predictor
from edge_client.inference.trial import try_model
from edge_client.wire.blobs import sha256
from edge_client.wire.rollout import GateRule

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
class Score:
    """Counts over validation examples, and whether every answer was finite."""

    right: int
    examples: int
    finite: bool

    @property
    def accuracy(self) -> float | None:
        """None without examples."""
        return self.right / self.examples if self.examples else None


def run_gate(
    model: bytes,
    spec: ModelSpec,
    data: LocalData,
    rule: GateRule,
    reference_accuracy: float | None,
    *,
    threads: int = 1,
    digest: str | None = None,
    active: Score | None = None,
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
        active: of the model that answers now, on the same examples; a new one may not be worse either.
    """
    if digest is not None and sha256(model) != digest:
        return refusal("the model file is not the one that was signed")
    trial = try_model(model, spec, threads=threads)
    if not trial.ran:
        return refusal(trial.reason)
    if (peak := trial.peak_rss_mb) is not None and peak > rule.max_memory_mb:
        reason = f"it takes {peak:.0f} MB of memory, {rule.max_memory_mb:g} MB are allowed"
        return replace(refusal(reason), peak_rss_mb=peak)
    try:
        predictor = Predictor(model, spec, threads=threads)
        score, latency = measure(predictor, data)
    except PredictionError as exc:
        return refusal(str(exc))
    accepted, reason = _decide(rule, score, _better(reference_accuracy, active), latency)
    return GateVerdict(accepted, reason, score.accuracy, score.examples, latency, trial.peak_rss_mb)


def preparation_digest(spec: ModelSpec) -> str:
    """Names the classes and the preprocessing of a spec: a file made for others answers nonsense."""
    return sha256(dumps(spec.raw_input) + b"\0" + "\0".join(spec.classes).encode())


def refusal(reason: str) -> GateVerdict:
    """A verdict without figures."""
    return GateVerdict(False, reason[:MAX_REASON] or "no reason is known")


def measure(predictor: Predictor, data: LocalData) -> tuple[Score, Latency]:
    """A model on the validation examples, and how long it takes for one of them."""
    example = next(batches(data, data.validation_index[:1], predictor.spec), None)
    shown = np.zeros(predictor.spec.input.shape, np.float32) if example is None else example.inputs[0]
    return score_of(predictor, data), measure_latency(predictor, shown)


def score_of(predictor: Predictor, data: LocalData) -> Score:
    """A model on the validation examples."""
    spec = predictor.spec
    right = examples = 0
    finite = True
    for batch in batches(data, data.validation_index, spec):
        real = batch.weights > 0
        probabilities = predictor.predict(batch.inputs[real])
        finite = finite and bool(np.isfinite(probabilities).all())
        right += int((probabilities.argmax(axis=1) == batch.labels[real]).sum())
        examples += int(real.sum())
    return Score(right, examples, finite)


def _better(weights: float | None, active: Score | None) -> tuple[float, str] | None:
    """What to compare with: the float32 weights or the model that answers, whichever is right more often."""
    known = [] if weights is None else [(weights, "the float32 weights have")]
    if active is not None and active.accuracy is not None:
        known.append((active.accuracy, "the model that answers has"))
    return max(known, default=None)


def _decide(
    rule: GateRule, score: Score, reference: tuple[float, str] | None, latency: Latency
) -> tuple[bool, str]:
    accuracy = score.accuracy
    if not score.finite:
        return False, "it answers with values that are not finite"
    if latency.p50_ms > rule.max_latency_ms:
        return False, f"an answer takes {latency.p50_ms:.3g} ms, {rule.max_latency_ms:g} ms are allowed"
    if score.examples < rule.min_examples:
        return False, f"{score.examples} validation examples, {rule.min_examples} are asked for"
    if accuracy is None:
        return True, f"no validation examples to judge by; {latency.p50_ms:.3g} ms an answer"
    if reference is not None and accuracy < reference[0] - allowed_drop(rule, score.examples):
        return False, f"accuracy {accuracy:.3f}, {reference[1]} {reference[0]:.3f}"
    return True, f"accuracy {accuracy:.3f} on {score.examples} examples, {latency.p50_ms:.3g} ms an answer"


def allowed_drop(rule: GateRule, examples: int) -> float:
    """The rule's share, and always one example: on 15 examples a single one is 0.067."""
    return max(rule.max_accuracy_drop, 1 / examples) + ROUNDING
