"""``bramble-bench aggregate``: what it prints, that memory does not grow with updates, refusals."""

from __future__ import annotations

import json

import pytest

from benchmarks.aggregate import AggregateResult, benchmark_aggregate, verdict
from benchmarks.cli import main
from benchmarks.errors import BenchmarkError


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aggregate", "--updates", "12", "--parameters", "5000", "--codec", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("s_per_update", "numpy_s_per_update", "bandwidth_bound_s_per_update", "peak_rss_mb"):
        assert found[name] > 0
    assert found["updates"] == 12 and found["few"] == 10 and found["codec"] == "small"
    assert found["ratio_numpy"] == pytest.approx(found["s_per_update"] / found["numpy_s_per_update"])
    assert found["payload_bytes"] < 4 * 5000 / 20 and found["environment"]
    assert main(["aggregate", "--updates", "1", "--parameters", "5000"]) == 0
    assert "plain NumPy" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    found = benchmark_aggregate(200, 250_000)  # 200 decoded updates would be 200 MB
    assert found.peak_rss_mb - found.peak_rss_mb_of_few < 64


def test_the_verdict_says_what_was_measured() -> None:
    result = AggregateResult(
        updates=100,
        parameters=1_000_000,
        codec="safe",
        payload_bytes=1,
        s_per_update=0.02,
        numpy_s_per_update=0.002,
        bandwidth_bound_s_per_update=0.001,
        ratio_numpy=10.0,
        copy_gb_per_s=20.0,
        peak_rss_mb=103.5,
        peak_rss_mb_of_few=102.0,
        few=10,
    )
    assert "take 2 s of one core, 10 times" in verdict(result) and "+1.5 MB" in verdict(result)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(BenchmarkError, match="unknown profile 'no'"):
        benchmark_aggregate(1, 1000, codec="no")
    with pytest.raises(BenchmarkError, match="7 parameters"):
        benchmark_aggregate(1, 7)
