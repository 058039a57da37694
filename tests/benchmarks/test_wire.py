"""``bramble-bench wire``: every codec on a small update, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.changes import compare_results, verdict
from benchmarks.cli import main
from benchmarks.codecs import CODECS
from benchmarks.output import read_results
from benchmarks.wire import benchmark_wire, cosine, made_up_tensors, made_up_update
from benchmarks.wire_child import MIN_RUNS, peak_bytes, timed
from edge_client.measure.children import run_child
from edge_client.measure.errors import MeasureError

QUICK = ("--parameters", "20000", "--max-seconds", "0")


def test_every_codec_has_a_row_with_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wire", *QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = {row["profile"]: row for row in json.loads(captured.out)}
    assert list(rows) == list(CODECS)
    for row in rows.values():
        assert row["bytes_per_parameter"] == row["payload_bytes"] / 20000
        assert 0 < row["encode_s"] < 5 and 0 < row["decode_s"] < 5
        assert row["encode_mb_per_s"] == pytest.approx(0.08 / row["encode_s"])
        assert row["peak_times"] == pytest.approx(row["peak_mb"] / 0.08)
        assert row["runs"] >= MIN_RUNS and row["environment"]["cores"] >= 1
    assert rows["float32"]["payload_bytes"] == 80_000
    assert rows["float32"]["cosine"] == rows["lossless"]["cosine"] == pytest.approx(1)
    assert rows["float32"]["peak_mb"] > 0.08  # its payload is as large as the update
    assert rows["small"]["bytes_per_parameter"] < rows["safe"]["bytes_per_parameter"] < 0.2
    statistics = sum(t.size for t in made_up_tensors(20_000) if t.role == "statistic")
    bits = 8 * (rows["drive"]["payload_bytes"] - 4 * statistics)
    assert bits == pytest.approx(20_000 - statistics, rel=0.03)
    assert rows["drive"]["cosine"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)


def test_it_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wire", *QUICK, "--codecs", "small,stc-1"]) == 0
    text = capsys.readouterr().out
    assert "20,000 made-up parameters" in text and "bytes/param" in text and "on: " in text
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["small", "stc-1"]


def test_what_it_saves_is_an_envelope_that_compare_and_report_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, history = tmp_path / "wire.json", tmp_path / "history.jsonl"
    options = ["--codecs", "small,float32", "--save", str(file), "--history", str(history)]
    assert main(["wire", *QUICK, *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    [saved], [kept] = read_results(file), read_results(history)
    assert saved == kept and saved["benchmark"] == "wire"
    shared = {"benchmark": "wire", "environment": saved["environment"]}
    assert printed == [row | shared for row in saved["rows"]]
    assert main(["report", str(file)]) == 0
    assert "| small | 0." in capsys.readouterr().out
    other = saved | {"rows": [row | {"payload_bytes": 2 * row["payload_bytes"]} for row in saved["rows"]]}
    comparison = compare_results(saved, other)
    changed = [each.what for each in comparison.differences if each.change.changed]
    assert changed == ["small, payload", "float32, payload"]
    assert {each.what for each in comparison.differences} >= {"small, encode", "float32, decode"}
    assert "small, payload: 100 % larger." in verdict(comparison)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parameters", "99"), "99 parameters cannot be measured: take 100 to 100000000"),
        (("--parameters", "100000001"), "cannot be measured"),
        (("--codecs", "small,zip"), "unknown codec 'zip'; known are lossless, safe"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wire", *arguments, "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_a_codec_that_fails_in_its_process_is_named() -> None:
    with pytest.raises(MeasureError, match="unknown codec 'zip'"):
        run_child("benchmarks.wire_child", ["zip", "1000", "0", "0"])


def test_the_bar_is_told_of_every_codec() -> None:
    said: list[tuple[str, float]] = []
    benchmark_wire(100, codecs=("float32", "int8"), max_s=0, report=lambda *told: said.append(told))
    assert said == [("coding with float32", 0.0), ("coding with int8", 0.5)]


@pytest.mark.parametrize("parameters", [100, 101, 12_345, 5_000_000])
def test_the_made_up_model_has_the_parameters_asked_for(parameters: int) -> None:
    tensors = made_up_tensors(parameters)
    assert sum(tensor.size for tensor in tensors) == parameters
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    measured = sum(tensor.size for tensor in tensors if tensor.role == "statistic")
    assert parameters < 1000 or 0 < measured < 0.1 * parameters


def test_the_made_up_update_is_the_same_for_a_seed_only() -> None:
    tensors = made_up_tensors(1000)
    first, same, other = (made_up_update(tensors, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["last/kernel"], other["last/kernel"])


def test_the_cosine_by_hand() -> None:
    def update(*values: float) -> dict[str, np.ndarray]:
        return {"a": np.array(values[:1], np.float32), "b": np.array(values[1:], np.float32)}

    assert cosine(update(3, 4), update(4, 3)) == pytest.approx(24 / 25)
    assert cosine(update(3, 4), update(-3, -4)) == pytest.approx(-1)
    assert cosine(update(0, 0), update(0, 0)) == 1
    assert cosine(update(3, 4), update(0, 0)) == 0


def test_the_fastest_run_does_not_count_the_first() -> None:
    runs: list[int] = []
    found = timed(lambda: runs.append(1), 0)
    assert len(found.cpu_s) == MIN_RUNS == len(runs) - 1 and 0 <= found.fastest_s < 1


def test_peak_memory_counts_arrays_that_are_gone() -> None:
    assert 1_000_000 <= peak_bytes(lambda: np.zeros(1_000_000, np.uint8).size) < 1_100_000
