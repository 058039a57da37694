"""Does a model do badly on a device after the switch? What the device says, against its gate's figures."""

from __future__ import annotations

from edge_client.inference.gate import allowed_drop
from edge_client.wire.rollout import GateRule, ModelHealth, ReleaseReport

MIN_ANSWERS = 10  # below this a share of errors says nothing


def problem_of(
    health: ModelHealth, at_the_gate: ReleaseReport | None, rule: GateRule, *, max_errors: float
) -> str | None:
    """Why the device counts as failed; None while it does well."""
    if health.problem:
        return f"it does not answer: {health.problem}"
    asked = health.answers + health.errors
    if asked >= MIN_ANSWERS and health.errors / asked > max_errors:
        return f"{health.errors} of {asked} answers failed, a share of {max_errors:g} is allowed"
    if health.latency_p50_ms is not None and health.latency_p50_ms > rule.max_latency_ms:
        slow = f"an answer takes {health.latency_p50_ms:.3g} ms by now"
        return f"{slow}, {rule.max_latency_ms:g} ms are allowed"
    before = at_the_gate.accuracy if at_the_gate else None
    if before is None or health.accuracy is None or not health.examples:
        return None
    if health.accuracy < before - allowed_drop(rule, health.examples):
        return f"accuracy {health.accuracy:.3f} by now, {before:.3f} at the gate"
    return None
