"""Results kept and shown again."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.history import markdown, rows_of, title_of
from benchmarks.history_page import html
from benchmarks.output import SCHEMA, envelope, read_results
from edge_client.measure.environment import read_environment
from tests.benchmarks.tiny import tiny_model


def system(**figures: float) -> dict[str, Any]:
    return {"name": "x", "rounds_s": [1.0], "client_pss_mb": 60.25, **figures}


def peers() -> dict[str, Any]:
    ours, flower = system(round_s=0.5, bytes_up_per_client_round=2500.0), system(round_s=30.0)
    plain = {"ours": ours, "flower": flower, "verdict": "ours | <b>faster</b>"}
    return envelope("peers", read_environment(), plain)


def test_every_command_writes_the_same_envelope_and_appends_to_a_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history, saved = tmp_path / "deep/history.jsonl", tmp_path / "last.json"
    model = tiny_model(tmp_path / "model.tflite")
    quick = ["--max-seconds", "0.2", "--warm-up", "0.01"]
    assert main(["latency", str(model), *quick, "--history", str(history), "--save", str(saved)]) == 0
    assert main(["environment", "--history", str(history)]) == 0
    assert main(["size", str(model), "--history", str(history)]) == 0
    results = read_results(history)
    assert [result["benchmark"] for result in results] == ["latency", "environment", "size"]
    assert all(result["schema"] == SCHEMA and result["environment"]["python"] for result in results)
    assert read_results(saved) == results[:1]
    samples = results[0]["models"][0]["timings"]["samples_ms"]
    assert len(samples) == 5 and all(samples)
    page = tmp_path / "page.html"
    capsys.readouterr()
    assert main(["report", str(history), "--html", str(page)]) == 0
    assert "| model.tflite, " in capsys.readouterr().out
    assert "<svg" in page.read_text()
    assert main(["report", str(history), "--json", "--last", "1"]) == 0
    assert [each["benchmark"] for each in json.loads(capsys.readouterr().out)] == ["size"]


def test_a_file_that_cannot_be_written_is_known_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, message in ((tmp_path / "absent/a.json", "is not a folder"), (tmp_path, "cannot be written")):
        with pytest.raises(SystemExit) as ended:
            main(["environment", "--save", str(file)])
        assert ended.value.code == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.out == ""
    (tmp_path / "file").touch()
    assert main(["environment", "--history", str(tmp_path / "file/history.jsonl")]) == 1
    captured = capsys.readouterr()
    assert "governor" in captured.out  # the result is not lost
    assert "history.jsonl: " in captured.err and captured.err.count("\n") == 1


def test_every_comparison_has_a_table() -> None:
    rows = [{"codec": "small", "accuracy_mean": 0.95, "ratio_up": 100.0}]
    flash = [{"compression": "xz", "ours_s": 1.5, "dd_s": None}]
    results = [
        envelope("accuracy-bytes", read_environment(), {"rows": rows}),
        envelope("strategies", read_environment(), {"rows": [{"strategy": "fedavg", "codec": "safe"}]}),
        envelope("flash", read_environment(), {**flash[0], "results": flash}),
        envelope("aggregate", read_environment(), {"codec": "safe", "s_per_update": 0.002}),
    ]
    text = markdown(results)
    for line in (
        "| small | 0.9500 | - | 100.0 |",
        "| fedavg | - |",
        "| xz | 1.50 | - | - |",
        "| safe | 2.000 |",
    ):
        assert line in text


def test_a_table_of_systems() -> None:
    result = peers()
    assert [name for name, _ in rows_of(result)] == ["ours", "flower"]
    text = markdown([result])
    assert "| ours | 0.500 | 2.50 | - | 60.2 |" in text
    assert "| flower | 30.000 | - |" in text
    assert title_of(result | {"network": "namespaces", "link": "10mbit"}) == (
        f"{title_of(result)}, namespaces, 10mbit"
    )
    assert title_of(result | {"network": "loopback", "link": None}) == f"{title_of(result)}, loopback"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("href", "src", "xlink:href")
        self.outside += [value for name, value in attrs if name in names and value and value[0] != "#"]


def test_the_page_is_self_contained_and_text_stays_text() -> None:
    page = html([peers()])
    links = Links()
    links.feed(page)
    assert links.outside == [] and "script" not in links.tags and "link" not in links.tags
    assert links.tags.count("figure") == 2  # those of which two rows have something to draw
    assert links.tags.count("svg") == 4
    assert "<b>faster" not in page and "&lt;b&gt;faster" in page


def test_what_all_rows_have_in_common_is_said_once() -> None:
    row = {"xnnpack": True, "runtime": "litert 2", "threads": 1, "timings": {"p50_ms": 0.5}}
    rows = [row | {"file": "a.tflite"}, row | {"file": "a.tflite", "xnnpack": False}]
    result = envelope("latency", read_environment(), {"models": rows})
    assert [name for name, _ in rows_of(result)] == ["a.tflite", "a.tflite, no XNNPACK"]
    assert title_of(result).endswith(", litert 2, 1 thr.") and ", litert 2, 1 thr.</p>" in html([result])
    alone = envelope("latency", read_environment(), {"models": rows[:1]})
    assert [name for name, _ in rows_of(alone)] == ["a.tflite, litert 2, 1 thr."]


def test_the_page_shows_the_ops_and_the_machine() -> None:
    op = {"op": "CONV_2D", "what": "CONV_2D 1x8x8x1 -> 1x8x8x4", "count": 2, "ms": 0.125}
    times = {
        "model": "a.tflite",
        "threads": 1,
        "xnnpack": False,
        "sum_ms": 0.25,
        "whole_ms": 0.2,
        "ops": [op],
    }
    skipped = {"model": "b.tflite", "skipped": "it crashes"}
    plain = {"models": [], "operators": [times, skipped, "odd"]}
    result = envelope("latency", read_environment(), plain)
    page = html([result, result | {"benchmark": "environment", "at": "soon"}])
    assert "a.tflite, 1 thr., no XNNPACK, by op: 0.25 ms in all, 125 % of the whole" in page
    assert "b.tflite, by op: skipped, it crashes" in page
    assert page.count("<details open") == 1 and "at an unknown time" in page


def test_files_that_hold_no_results_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "absent.jsonl")]) == 1
    assert "No such file" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(peers()))
    assert main(["report", str(good), "--html", str(tmp_path / "nowhere/page.html")]) == 1
    assert "nowhere/page.html: No such file" in capsys.readouterr().err
    assert main(["report", str(good), "--plot", str(tmp_path / "plot.txt")]) == 1
    assert "a plot is one of .svg" in capsys.readouterr().err
    for text in ('{"schema": 1, "benchmark": "latency"}', '[{"schema": 1}]', '{"schema": 2}'):
        (tmp_path / "odd.json").write_text(text)
        assert main(["report", str(tmp_path / "odd.json")]) == 1
        assert "holds no result of bramble-bench of schema 1" in capsys.readouterr().err
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe")
    assert main(["report", str(tmp_path / "odd.json")]) == 1
    assert "odd.json is not text" in capsys.readouterr().err
    odd = {"models": [3, {"file": 4, "xnnpack": False}, "x"]}
    (tmp_path / "odd.json").write_text(json.dumps(envelope("latency", read_environment(), odd)))
    assert main(["report", str(tmp_path / "odd.json")]) == 0
    assert "| 4, None thr., no XNNPACK | - |" in capsys.readouterr().out
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", str(tmp_path / "empty.jsonl")]) == 1
    assert "empty.jsonl: no results" in capsys.readouterr().err


def test_a_plot_of_the_newest_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "peers.json", tmp_path / "plot.svg"
    file.write_text(json.dumps(peers()))
    assert main(["report", str(file), "--plot", str(plot)]) == 0
    assert "<svg" in plot.read_text()
    file.write_text(json.dumps(envelope("environment", read_environment(), {})))
    assert main(["report", str(file), "--plot", str(plot)]) == 1
    assert "nothing to draw" in capsys.readouterr().err
