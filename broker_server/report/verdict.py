"""The verdict in plain words: what the figures of a run say, and what they do not.

A difference between two accuracies on the same few examples is easily chance, so each is read against
the Wilson score interval (Wilson, 1927) of the federated model's accuracy; inside it there is "no clear
difference". Rules are functions of the report that return a finding or None where nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from broker_server.report import words
from broker_server.report.schema import RunReport

Z_95 = 1.959963984540054  # of the standard normal, two-sided
INT8_TOLERANCE = 0.01  # int8 may lose this much accuracy before it is worth a warning
MEMORY_LIMIT_MB = 100.0  # what a device's process may take on a Pi Zero 2 W with 512 MB

Tone = Literal["good", "neutral", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and whether it is good news."""

    tone: Tone
    text: str


def wilson_interval(accuracy: float, examples: int) -> tuple[float, float]:
    """95 % interval of a share that was counted over `examples`, at least 1."""
    z2 = Z_95 * Z_95
    centre = (accuracy + z2 / (2 * examples)) / (1 + z2 / examples)
    spread = math.sqrt(accuracy * (1 - accuracy) / examples + z2 / (4 * examples * examples))
    half = Z_95 * spread / (1 + z2 / examples)
    return min(accuracy, max(0.0, centre - half)), max(accuracy, min(1.0, centre + half))  # rounding


def verdict(report: RunReport) -> tuple[Finding, ...]:
    """The findings, the most important first."""
    found = (rule(report) for rule in _RULES)
    return tuple(finding for finding in found if finding is not None)


def _rounds(report: RunReport) -> Finding:
    finished, dropped = len(report.rounds), sum(len(r.dropped) for r in report.rounds)
    if not finished:
        return Finding("bad", "No round finished.")
    text = f"{words.plural(finished, 'round')} finished with {words.plural(report.devices, 'device')}"
    if not dropped:
        return Finding("good", f"{text}; every device that was asked was counted.")
    return Finding("neutral", f"{text}; {words.plural(dropped, 'update')} asked for but not counted.")


def _accuracy(report: RunReport) -> Finding | None:
    accuracy, examples = report.final.accuracy, report.final.examples
    if accuracy is None or not examples:
        return Finding("neutral", "The final model was not measured on held-out examples.")
    low, high = wilson_interval(accuracy, examples)
    text = (
        f"The final model is right on {words.share(accuracy)} of the "
        f"{words.plural(examples, 'held-out example')} (95 % interval {low:.3f} to {high:.3f})"
    )
    guess = _largest_class_share(report)
    if guess is None or low > guess:
        return Finding("good", f"{text}.")
    how = "no better" if accuracy <= guess else "not clearly better"
    return Finding("bad", f"{text}, {how} than always naming the largest class ({words.share(guess)}).")


def _largest_class_share(report: RunReport) -> float | None:
    matrix = report.final.confusion_matrix
    total = sum(map(sum, matrix))
    return max(map(sum, matrix)) / total if total else None


def _centralised(report: RunReport) -> Finding | None:
    return _compared(report, report.centralised.accuracy, "Training on the pooled data", "would give")


def _local_only(report: RunReport) -> Finding | None:
    return _compared(report, report.local_only.accuracy_mean, "Each client alone", "reaches on average")


def _compared(report: RunReport, other: float | None, who: str, does: str) -> Finding | None:
    accuracy, examples = report.final.accuracy, report.final.examples
    if accuracy is None or other is None or not examples:
        return None
    low, high = wilson_interval(accuracy, examples)
    text = f"{who} {does} {words.share(other)}"
    if low <= other <= high:
        return Finding("neutral", f"{text}: no clear difference on {words.plural(examples, 'example')}.")
    if other < low:
        return Finding("good", f"{text}: federated training is better by {accuracy - other:.3f}.")
    return Finding("bad", f"{text}: federated training is worse by {other - accuracy:.3f}.")


def _int8(report: RunReport) -> Finding | None:
    model, final = report.model, report.final
    if final.int8_accuracy is None:
        return None
    text = f"The int8 model is right on {words.share(final.int8_accuracy)}"
    if model.float32_bytes and model.int8_bytes:
        text += f" and {words.times(model.float32_bytes / model.int8_bytes)} smaller than float32"
    if final.accuracy is None:
        return Finding("neutral", f"{text}.")
    lost = final.accuracy - final.int8_accuracy
    if lost > INT8_TOLERANCE + 1e-9:
        return Finding("bad", f"{text}, but loses {lost:.3f} of accuracy.")
    return Finding("good", f"{text}, within {INT8_TOLERANCE} of float32's accuracy.")


def _release(report: RunReport) -> Finding | None:
    verdicts = [client.gate.verdict for client in report.clients]
    asked = sum(v is not None for v in verdicts)
    if not asked:
        return None
    active = verdicts.count("activated")
    text = f"{active} of {words.plural(len(verdicts), 'device')} activated the released model"
    if active == len(verdicts):
        return Finding("good", f"{text}.")
    refused = verdicts.count("refused") + verdicts.count("rolled-back")
    return Finding("bad" if refused else "neutral", f"{text}; {refused} refused it or rolled it back.")


def _traffic(report: RunReport) -> Finding | None:
    ratio_up, ratio_down = report.bytes.ratio_up, report.bytes.ratio_down
    if ratio_up is None:
        return None
    down = f", models down {_smaller(ratio_down)}" if ratio_down is not None else ""
    tone: Tone = "good" if ratio_up > 1 and (ratio_down is None or ratio_down > 1) else "bad"
    return Finding(tone, f"Updates up are {_smaller(ratio_up)}{down} than float32 weights.")


def _smaller(ratio: float) -> str:
    return f"{words.times(ratio)} smaller" if ratio >= 1 else f"{words.times(1 / ratio)} larger"


def _memory(report: RunReport) -> Finding | None:
    known = [(c.peak_rss_mb, c.name) for c in report.clients if c.peak_rss_mb is not None]
    if not known:
        return None
    peak, name = max(known)
    everyone = len(known) == len(report.clients)
    who = "No device process" if everyone else f"None of {words.plural(len(known), 'measured device')}"
    text = f"{who} took more than {words.megabytes(peak)} of memory ({name})"
    tone: Tone = "good" if peak < MEMORY_LIMIT_MB else "bad"
    imports = [client.imports_tensorflow for client in report.clients]
    if True in imports:
        return Finding("bad", f"{text}; {imports.count(True)} imported TensorFlow.")
    return Finding(tone, f"{text}." if None in imports else f"{text}; none imported TensorFlow.")


def _incidents(report: RunReport) -> Finding | None:
    if not report.incidents:
        return None
    text = f"{words.plural(len(report.incidents), 'incident')} during the run"
    if lost := sum(incident.survived_by is None for incident in report.incidents):
        return Finding("bad", f"{text}, {lost} not survived.")
    return Finding("neutral", f"{text}; the run survived.")


_RULES: tuple[Callable[[RunReport], Finding | None], ...] = (
    _rounds,
    _accuracy,
    _centralised,
    _local_only,
    _int8,
    _release,
    _traffic,
    _memory,
    _incidents,
)
