"""What the report says of calibration and of pruning, on a terminal and on the page."""

from __future__ import annotations

import io
from dataclasses import replace

from broker_server.report.calibration import CalibrationFigures, ComparedCalibration
from broker_server.report.calibration_grid import calibration_grid
from broker_server.report.console import open_console
from broker_server.report.html import to_html
from broker_server.report.json_view import from_json, to_json
from broker_server.report.schema import RunReport
from broker_server.report.tables import models_grid, rounds_grid
from broker_server.report.terminal import print_report
from tests.broker_server.report_samples import NAMES, sample_report

FIGURES = CalibrationFigures(
    asked="federated",
    used="federated",
    devices=dict.fromkeys(NAMES[:3], 200),
    missing={NAMES[3]: "measuring ranges needs 48 MB of memory, 31 MB are free"},
    clip_percent=0.1,
    noise=0.05,
    compared=(
        ComparedCalibration("federated", 0.952, 0.141, 0.9857, 21_744, "full-integer"),
        ComparedCalibration("server", 0.954, 0.140, 0.9856, 21_864, "full-integer"),
        ComparedCalibration("none", 0.953, 0.139, 0.9857, 20_528, "dynamic-range"),
    ),
)


def calibrated() -> RunReport:
    report = sample_report()
    rounds = tuple(replace(entry, sparsity=0.8) for entry in report.rounds)
    model = replace(report.model, float32_zipped_bytes=58_000, int8_zipped_bytes=7_900)
    return replace(report, calibration=FIGURES, rounds=rounds, model=model)


def terminal(report: RunReport) -> str:
    stream = io.StringIO()
    print_report(report, open_console(stream, width=80))
    return stream.getvalue()


def test_three_lines_say_what_each_way_gives_and_which_was_released() -> None:
    report = calibrated()
    grid = calibration_grid(report)
    assert [row[:3] for row in grid.rows] == [
        ("Devices' ranges", "yes", "0.952"),
        ("Pooled (server)", "-", "0.954"),
        ("None", "-", "0.953"),
    ]
    assert grid.note == (
        "Asked for: federated; used: federated. Ranges over 600 examples of 3 devices, 0.1 % clipped at "
        "either end, noise of 0.05 of a range. "
        "device-4: measuring ranges needs 48 MB of memory, 31 MB are free."
    )
    for text in (terminal(report), to_html(report)):
        assert "How the int8 model was calibrated" in text and "dynamic-range" in text
    assert max(map(len, terminal(report).splitlines())) <= 80
    assert from_json(to_json(report)) == report


def test_what_was_used_in_place_of_what_was_asked_is_said() -> None:
    fell_back = replace(FIGURES, used="none", devices={}, compared=())
    grid = calibration_grid(replace(sample_report(), calibration=fell_back))
    assert grid.rows == () and grid.note.startswith("Asked for: federated; used: none. device-4: measuring")
    assert "used: none" in terminal(replace(sample_report(), calibration=fell_back))


def test_zeros_and_zipped_sizes_stand_where_the_run_prunes() -> None:
    assert "Zeros" in rounds_grid(calibrated()).headers
    assert "Zeros" not in rounds_grid(sample_report()).headers
    assert "Zipped: 58.0 kB in float32, 7.90 kB released, 7.34 times less." in models_grid(calibrated()).note
    assert "Zipped" not in models_grid(sample_report()).note


def test_without_int8_nothing_is_said_of_calibration() -> None:
    assert sample_report().calibration is None
    assert "calibrated" not in terminal(sample_report())
    assert "not measured" in calibration_grid(sample_report()).note
