"""A fleet's latencies in words and tables, and as report and compare read them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.changes import compare_results, verdict
from benchmarks.fleet_latency import device_row
from benchmarks.fleet_progress import device_lines, share_of
from benchmarks.fleet_words import device_verdict, fleet_text, fleet_verdict
from benchmarks.history import markdown
from benchmarks.history_page import html
from benchmarks.output import emit, envelope
from edge_client.measure.environment import read_environment
from edge_client.wire.frame import MAX_JSON_BYTES, encode
from edge_client.wire.latency import LatencyReport
from edge_client.wire.measurement import MAX_SAMPLES
from tests.broker_server.test_fleet_latency import hello
from tests.edge_client.measure_cases import BLIND, COOL, PI, TIMINGS, measurement

MEASURED = LatencyReport(number=1, outcome="measured", measurement=measurement())


def row(device: str, state: str = "measured", reason: str = "", **fields: Any) -> dict[str, Any]:
    report = None
    if state == "measured":
        report = replace(MEASURED, measurement=measurement(**fields))
    elif state in ("refused", "failed"):
        report = LatencyReport(number=1, outcome=state, reason=reason)  # type: ignore[arg-type]
    return device_row(device, hello(), state, reason, report)


ROWS = [
    row("pi-1"),
    row("pi-2", p50_ms=8.0, conditions=BLIND, throttled_flags=None),
    row("pi-3", "refused", "it needs FlexMatrixInverse"),
    row("pi-4", "away", "it left while measuring"),
    row("pi-5", "waiting", "it has a task: train"),
]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "500 answers a second"),
        (
            {"conditions": replace(COOL, throttled=True), "throttled_flags": 0x5},
            "THROTTLED (under-voltage, throttling): cool it or power it better; 500 answers a second",
        ),
        (
            {"conditions": replace(COOL, throttled=True)},
            "THROTTLED (at some moment): cool it or power it better; 500 answers a second",
        ),
        (
            {"throttled_flags": 0x50000},
            "500 answers a second; has met under-voltage and throttling since its start",
        ),
        (
            {"conditions": replace(COOL, clock_mhz=(600.0, 1500.0))},
            "UNSTEADY CLOCK (600 to 1500 MHz): set its governor to performance; 500 answers a second",
        ),
        (
            {"timings": replace(TIMINGS, reached=False, interval_ms=(1.8, 2.2))},
            "500 answers a second; median known to 10.0 % only",
        ),
    ],
)
def test_what_a_device_comes_to(fields: dict[str, Any], words: str) -> None:
    assert device_verdict(replace(measurement(), **fields)) == words


def test_a_line_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    lines = fleet_text(ROWS).splitlines()
    assert lines[0].split()[:5] == ["device", "board", "runtime", "p50", "ms"]
    assert "Raspberry Pi 4 Model B Rev 1.4 (aarch64)" in lines[1] and "50 to 51 C" in lines[1]
    assert "no sensor" in lines[2] and "unknown" in lines[2]
    assert lines[3].endswith("refused: it needs FlexMatrixInverse")
    assert lines[4].endswith("no answer: it left while measuring")
    assert lines[5].endswith("no answer: waiting: it has a task: train")


def test_the_fleet_in_words() -> None:
    assert fleet_verdict(ROWS).splitlines() == [
        "2 of 5 devices were measured; half of them answer within 5 ms.",
        "Fastest: pi-1, 2 ms. Slowest: pi-2, 8 ms, 4.0 times as long.",
        "pi-3: refused: it needs FlexMatrixInverse.",
        "pi-4: no answer: it left while measuring.",
        "pi-5: no answer: waiting: it has a task: train.",
        "Not watched everywhere, for want of a sensor: clock, temperature.",
    ]
    slowed = row("pi-1", conditions=replace(COOL, throttled=True))
    assert "THROTTLED: pi-1; their times are not the model's." in fleet_verdict([slowed])
    assert fleet_verdict(ROWS[2:3]).startswith("0 of 1 devices were measured.")


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    return envelope("fleet-latency", read_environment(), {"devices": list(rows), "verdict": "so it is"})


def test_its_text_does_not_name_the_workstation(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"devices": ROWS, "verdict": "so it is"}
    environment = read_environment()
    assert emit(argparse.Namespace(json=False), "fleet-latency", environment, plain, "so it is") == 0
    assert capsys.readouterr().out == "so it is\n"


def test_report_reads_it() -> None:
    text = markdown([result(*ROWS)])
    assert "2 devices: Raspberry Pi 4 Model B Rev 1.4 (aarch64)\n" in text  # not where it was asked from
    assert "| pi-1, file, ai-edge-litert 2.3.0, 1 thr. | 2 | 3 | 4 | 5 | 500 | 50 | 51 |" in text
    assert "| pi-4 | - | - |" in text
    assert "<svg" in html([result(*ROWS)])


def test_compare_reads_it_device_by_device() -> None:
    twice = tuple((2.0, 4.0, 4.0, 4.0, 6.0) for _ in range(5))
    slow = row("pi-2", timings=replace(TIMINGS, samples_ms=twice))
    before, after = result(row("pi-1"), row("pi-2")), result(row("pi-1"), slow, ROWS[3])
    comparison = compare_results(before, after)
    changed = [each.what for each in comparison.differences if each.change.changed]
    assert changed == ["file, ai-edge-litert 2.3.0, threads 1, pi-2"]


def test_another_board_under_the_same_name_is_said_and_another_workstation_is_not() -> None:
    other = row("pi-1", environment=replace(PI, label="Raspberry Pi 5 (aarch64)"))
    after = result(other)
    after["environment"]["processor"] = "another workstation"
    words = verdict(compare_results(result(row("pi-1")), after))
    assert "the machines differ: pi-1 label was Raspberry Pi 4 Model B Rev 1.4 (aarch64)" in words
    assert "another workstation" not in words


def test_the_largest_report_fits_a_message() -> None:
    samples = tuple((1234567.0,) * (MAX_SAMPLES // 5) for _ in range(5))
    found = measurement(timings=replace(TIMINGS, samples_ms=samples))
    assert len(encode(replace(MEASURED, measurement=found))) < MAX_JSON_BYTES // 4


def test_a_terminal_shows_a_line_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with device_lines() as said:
        said("pi-1", "", "")
        said("pi-2", "waiting", "it has a task: train")
        said("pi-1", "measuring", "")
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in ("pi-1", "pi-2", "measuring", "waiting: it has a task: train"):
        assert words in captured.err


def test_progress_only_grows_along_the_way() -> None:
    shares = [share_of(state) for state in ("", "waiting", "fetching", "measuring", "measured")]
    assert shares == sorted(shares) and shares[-1] == share_of("refused") == 1.0
