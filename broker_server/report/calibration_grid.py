"""The table of how the released int8 model's activation ranges were found, and what else was tried."""

from __future__ import annotations

from collections.abc import Mapping

from broker_server.report import words
from broker_server.report.calibration import CalibrationFigures, How
from broker_server.report.schema import RunReport
from broker_server.report.tables import Grid

WAYS: Mapping[How, str] = {
    "federated": "Devices' ranges",
    "server": "Pooled (server)",
    "none": "None",
}
TITLE = "How the int8 model was calibrated"


def calibration_grid(report: RunReport) -> Grid:
    """One row a way to calibrate the same weights, on the held-out examples."""
    figures = report.calibration
    if figures is None:
        return Grid(TITLE, (), (), (), words.NOT_MEASURED)
    rows = tuple(
        (
            WAYS[each.how],
            "yes" if each.how == figures.used else "-",
            words.share(each.accuracy),
            words.loss(each.loss),
            words.share(each.auc),
            words.size(each.size_bytes),
            words.word(each.activations),
        )
        for each in figures.compared
    )
    return Grid(
        title=TITLE,
        headers=("Calibration", "Released", "Accuracy", "Loss", "AUC", "Size", "Activations"),
        numeric=(False, False, True, True, True, True, False),
        rows=rows,
        note=in_words(figures),
    )


def in_words(figures: CalibrationFigures) -> str:
    """Who took part, and what was not as asked."""
    parts = [f"Asked for: {figures.asked}; used: {figures.used}."]
    if figures.devices:
        examples = sum(figures.devices.values())
        parts.append(f"Ranges over {examples:,} examples of {words.plural(len(figures.devices), 'device')}")
        told = [
            f"{figures.clip_percent:g} % clipped at either end" if figures.clip_percent else "",
            f"noise of {figures.noise:g} of a range" if figures.noise else "",
        ]
        parts[-1] = ", ".join(filter(None, [parts[-1], *told])) + "."
    if figures.missing:
        parts.append("; ".join(f"{name}: {why}" for name, why in figures.missing.items()) + ".")
    return " ".join(parts)
