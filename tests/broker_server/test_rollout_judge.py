"""Health after the switch: each way to do badly, and what is not yet bad."""

from __future__ import annotations

import pytest

from broker_server.rollout.judge import problem_of
from edge_client.wire.rollout import GateRule, ModelHealth, ReleaseReport

RULE = GateRule(max_accuracy_drop=0.05, max_latency_ms=50.0)
GATE = ReleaseReport(order=1, version=2, outcome="activated", reason="", accuracy=0.9, examples=100)


@pytest.mark.parametrize(
    "health",
    [
        ModelHealth(version=2),
        ModelHealth(version=2, accuracy=0.86, examples=100, latency_p50_ms=50.0),
        ModelHealth(version=2, answers=5, errors=4),  # nine answers say nothing
        ModelHealth(version=2, answers=95, errors=5),
        ModelHealth(version=2, accuracy=0.0, examples=0),
    ],
)
def test_what_is_not_bad(health: ModelHealth) -> None:
    assert problem_of(health, GATE, RULE, max_errors=0.05) is None


@pytest.mark.parametrize(
    ("health", "why"),
    [
        (ModelHealth(version=2, problem="no memory"), "it does not answer: no memory"),
        (ModelHealth(version=2, answers=94, errors=6), "6 of 100 answers failed, a share of 0.05 is allowed"),
        (ModelHealth(version=2, latency_p50_ms=51.0), "an answer takes 51 ms by now, 50 ms are allowed"),
        (ModelHealth(version=2, accuracy=0.84, examples=100), "accuracy 0.840 by now, 0.900 at the gate"),
    ],
)
def test_what_is_bad(health: ModelHealth, why: str) -> None:
    assert problem_of(health, GATE, RULE, max_errors=0.05) == why


def test_without_the_gates_figures_accuracy_decides_nothing() -> None:
    assert problem_of(ModelHealth(version=2, accuracy=0.1, examples=9), None, RULE, max_errors=0.05) is None
