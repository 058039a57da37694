"""The gate: answers known by hand, every reason to refuse, and files that crash the runtime."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from edge_client.inference.gate import allowed_drop, run_gate
from edge_client.inference.latency import measure_latency
from edge_client.inference.predictor import PredictionError, Predictor
from edge_client.inference.trial import try_model
from edge_client.wire.blobs import sha256
from edge_client.wire.rollout import GateRule
from tests.edge_client.inference_cases import (
    SHAPE,
    SPEC,
    TABLE_SPEC,
    brightness_model,
    local_data,
    probability_bright,
)

CHECKOUT = Path(__file__).resolve().parents[2]
RULE = GateRule(max_accuracy_drop=0.1, max_latency_ms=1000.0, min_examples=2)
TEN = local_data([10, 20, 30, 40, 50, 200, 210, 220, 230, 240], [0] * 5 + [1] * 5)
NINE_RIGHT = local_data([10, 20, 30, 40, 200, 200, 210, 220, 230, 240], [0] * 5 + [1] * 5)


def test_probabilities_are_the_models_own() -> None:
    predictor = Predictor(brightness_model(), SPEC)
    inputs = np.stack([np.full(SHAPE, mean, np.float32) for mean in (0.1, 0.5, 0.8)])
    bright = [probability_bright(mean) for mean in (0.1, 0.5, 0.8)]
    np.testing.assert_allclose(predictor.predict(inputs)[:, 1], bright, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(inputs).sum(axis=1), 1, atol=1e-6)
    assert predictor.predict(inputs[:0]).shape == (0, 2)


def test_a_good_model_is_accepted_with_its_figures() -> None:
    verdict = run_gate(brightness_model(), SPEC, TEN, RULE, 1.0)
    assert verdict.accepted, verdict.reason
    assert (verdict.accuracy, verdict.examples) == (1.0, 10)
    assert verdict.latency is not None and 0 < verdict.latency.p50_ms <= verdict.latency.p99_ms
    assert verdict.peak_rss_mb is not None and 10 < verdict.peak_rss_mb < 150


def test_accuracy_may_fall_by_what_the_rule_allows_and_no_more() -> None:
    assert run_gate(brightness_model(), SPEC, NINE_RIGHT, RULE, 1.0).accepted
    verdict = run_gate(brightness_model(sign=-1.0), SPEC, TEN, RULE, 1.0)
    assert not verdict.accepted
    assert verdict.reason == "accuracy 0.000, the float32 weights have 1.000"


def test_one_example_is_always_allowed() -> None:
    strict = GateRule(max_accuracy_drop=0.0)
    assert allowed_drop(strict, 10) == pytest.approx(0.1)
    assert run_gate(brightness_model(), SPEC, NINE_RIGHT, strict, 1.0).accepted
    eight = local_data([10, 20, 30, 200, 200, 200, 210, 220, 230, 240], [0] * 5 + [1] * 5)
    assert not run_gate(brightness_model(), SPEC, eight, strict, 1.0).accepted


def test_without_a_reference_accuracy_alone_does_not_refuse() -> None:
    assert run_gate(brightness_model(sign=-1.0), SPEC, TEN, RULE, None).accepted


def test_too_few_examples_are_too_few() -> None:
    verdict = run_gate(brightness_model(), SPEC, local_data([10], [0]), RULE, 1.0)
    assert not verdict.accepted
    assert verdict.reason == "1 validation examples, 2 are asked for"


def test_where_the_rule_asks_for_no_examples_none_are_needed() -> None:
    rule = GateRule(min_examples=0)
    verdict = run_gate(brightness_model(), SPEC, local_data([], []), rule, None)
    assert verdict.accepted and verdict.accuracy is None
    assert verdict.reason.startswith("no validation examples to judge by")


def test_a_slow_model_is_refused() -> None:
    verdict = run_gate(brightness_model(), SPEC, TEN, GateRule(max_latency_ms=1e-6), 1.0)
    assert not verdict.accepted
    assert verdict.reason.endswith("1e-06 ms are allowed")
    assert verdict.accuracy == 1.0  # what was measured is reported all the same


def test_a_tampered_file_is_refused_before_anything_reads_it() -> None:
    model = brightness_model()
    verdict = run_gate(model[:-1] + b"x", SPEC, TEN, RULE, 1.0, digest=sha256(model))
    assert (verdict.accepted, verdict.reason) == (False, "the model file is not the one that was signed")
    assert verdict.latency is None


@pytest.mark.parametrize("model", [b"", b"not a model", brightness_model()[:200], bytes(5000)])
def test_bytes_that_are_no_model_are_refused(model: bytes) -> None:
    verdict = run_gate(model, SPEC, TEN, RULE, 1.0)
    assert not verdict.accepted
    assert "refuses the model" in verdict.reason or "crashes the runtime" in verdict.reason


def test_a_model_for_another_input_is_refused() -> None:
    verdict = run_gate(brightness_model(), TABLE_SPEC, local_data([], []), RULE, 1.0)
    assert not verdict.accepted
    assert "float32 [1, 4, 4, 1]" in verdict.reason and "float32 [1, 2]" in verdict.reason


def test_a_model_that_answers_nan_is_refused() -> None:
    verdict = run_gate(brightness_model(sign=float("nan")), SPEC, TEN, RULE, 1.0)
    assert (verdict.accepted, verdict.reason) == (False, "it answers with values that are not finite")


def test_a_crash_of_the_runtime_is_an_answer() -> None:
    crash = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    trial = try_model(brightness_model(), SPEC, command=crash)
    assert (trial.ran, trial.reason) == (False, "the model crashes the runtime (SIGSEGV)")


def test_a_model_that_never_answers_is_given_up() -> None:
    hang = (sys.executable, "-c", "while True: pass")
    trial = try_model(brightness_model(), SPEC, command=hang, timeout_s=0.5)
    assert (trial.ran, trial.reason) == (False, "the model gave no answer within 0.5 s")


def test_a_trial_that_cannot_start_says_why() -> None:
    trial = try_model(brightness_model(), SPEC, command=("/nowhere/python",))
    assert (trial.ran, trial.reason) == (False, "the model could not be tried: No such file or directory")
    broken = try_model(
        brightness_model(), SPEC, command=(sys.executable, "-c", "raise SystemExit('no runtime')")
    )
    assert broken.reason == "the model could not be tried: no runtime"


def test_the_real_crash_of_tflite_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offset into nowhere: tflite-runtime 2.14 follows it and dies of SIGSEGV."""
    python = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not python.exists():
        pytest.skip("no tflite-runtime: make .venv-tflite, or name its Python in BRAMBLE_TFLITE_PYTHON")
    monkeypatch.setenv("BRAMBLE_RUNTIME", "tflite-runtime")
    command = (str(python), "-m", "edge_client.inference.trial")
    model = brightness_model()
    assert try_model(model, SPEC, command=command).ran
    trial = try_model(b"\xf0\xff\xff\x7f" + model[4:], SPEC, command=command)
    assert (trial.ran, trial.reason) == (False, "the model crashes the runtime (SIGSEGV)")


def test_latency_counts_by_the_clock_it_is_given() -> None:
    """A clock that ticks 1 ms a look: each run takes one tick, and looks are counted in the budget."""
    ticks = count()
    predictor = Predictor(brightness_model(), SPEC)
    latency = measure_latency(
        predictor, np.zeros(SHAPE, np.float32), runs=20, budget_s=100, clock=lambda: next(ticks) / 1000
    )
    assert latency.runs == 20
    assert latency.p50_ms == pytest.approx(1.0) and latency.p99_ms == pytest.approx(1.0)


def test_a_slow_model_gets_fewer_runs_but_one_at_least() -> None:
    ticks = count()
    predictor = Predictor(brightness_model(), SPEC)
    latency = measure_latency(
        predictor, np.zeros(SHAPE, np.float32), budget_s=0.5, clock=lambda: float(next(ticks))
    )
    assert (latency.runs, latency.p50_ms, latency.first_ms) == (1, 1000.0, 1000.0)


def test_an_input_that_does_not_fit_is_one_error() -> None:
    predictor = Predictor(brightness_model(), SPEC)
    with pytest.raises(PredictionError, match="does not run"):
        predictor.predict_one(np.zeros((3, 3, 1), np.float32))
