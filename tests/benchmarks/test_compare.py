"""What counts as a change: on made-up samples, and on real runs of a tiny model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bootstrap import compare_medians, median
from benchmarks.changes import compare_results, verdict
from benchmarks.cli import main
from benchmarks.comparable import measures_of
from benchmarks.errors import BenchmarkError
from benchmarks.output import envelope, read_results
from edge_client.measure.environment import read_environment
from edge_client.measure.timing import Sample, TimingRule, sample, summarise

REPEATS, RUNS = 5, 60


def noisy(seed: int, scale: float = 1.0, spread: float = 0.02) -> list[list[float]]:
    """Repeats that differ a little as wholes, each with a long right tail."""
    rng = np.random.default_rng(seed)
    return [
        (scale * (1 + spread * rng.standard_normal()) * (1 + rng.exponential(0.05, RUNS))).tolist()
        for _ in range(REPEATS)
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_the_same_thing_measured_twice_has_not_changed(seed: int, scale: float) -> None:
    change = compare_medians(noisy(seed, scale), noisy(seed + 1, scale))
    assert not change.changed
    assert change.low <= change.ratio <= change.high


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.2, 1 / 1.25]))
def test_a_fifth_slower_or_faster_is_a_change(seed: int, factor: float) -> None:
    before = noisy(seed, spread=0.005)
    after = [[factor * value for value in repeat] for repeat in noisy(seed + 1, spread=0.005)]
    change = compare_medians(before, after)
    assert change.changed
    assert change.ratio == pytest.approx(factor, rel=0.05)


def test_the_floor_decides_what_is_worth_a_word() -> None:
    before, after = [[1.0] * 50] * 5, [[1.08] * 50] * 5
    assert not compare_medians(before, after).changed
    assert compare_medians(before, after, floor=0.05).changed


def test_repeats_that_disagree_hide_a_change() -> None:
    """Without the repeats, 300 samples would seem to know the median well."""
    before = [[level] * RUNS for level in (1.0, 1.0, 1.6, 1.0, 1.6)]
    after = [[level] * RUNS for level in (1.6, 1.0, 1.6, 1.0, 1.6)]
    assert not compare_medians(before, after).changed
    assert median(before) == 1.0 and median(after) == 1.6


def working_for(iterations: int) -> Callable[[], object]:
    return lambda: sum(range(iterations))


def results_of(*iterations: int) -> list[dict[str, Any]]:
    """Measured in turn, by the processor's own time: what else the machine does hits all of them alike."""
    rule = TimingRule(warm_up_runs=5, warm_up_s=0.0, min_runs=100, min_s=0.0, max_runs=100, max_s=5.0)
    repeats: list[list[Sample]] = [[] for _ in iterations]
    for _ in range(REPEATS):
        for found, each in zip(repeats, iterations, strict=True):
            found.append(sample(working_for(each), rule, clock=time.thread_time))
    results = []
    for found in repeats:
        samples = [list(repeat) for repeat in summarise(found, precision=0.01).samples_ms]
        row = {"file": "loop", "threads": 1, "timings": {"samples_ms": samples}}
        results.append(envelope("latency", read_environment(), {"models": [row]}))
    return results


def test_a_real_loop_with_a_fifth_more_to_do_is_slower_and_the_same_one_is_not() -> None:
    """Deterministic work; a processor that others share may still need a second look."""
    for _ in range(8):
        first, second, slower = results_of(20_000, 20_000, 24_000)
        same = not compare_results(first, second).changed
        if same and compare_results(first, slower).changed:
            return
    pytest.fail("in eight tries the same loop never compared as the same, with a slower one as slower")


def saved(path: Path, samples: list[list[float]], **more: Any) -> Path:
    row = {"file": "model.tflite", "threads": 1, "xnnpack": False, "timings": {"samples_ms": samples}}
    plain = {"models": [row | more]}
    path.write_text(json.dumps(envelope("latency", read_environment(), plain)))
    return path


def test_compare_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = saved(tmp_path / "a.json", noisy(1))
    after = saved(tmp_path / "b.json", noisy(2, 1.3))
    assert main(["compare", str(before), str(before)]) == 0
    assert "No change beyond the noise and 10 %" in capsys.readouterr().out
    assert main(["compare", str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert "CHANGED" in said and "model.tflite, threads 1, no XNNPACK: 3" in said and "% slower." in said
    assert main(["compare", str(before), str(after), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["changed"] and plain["differences"][0]["change"]["ratio"] == pytest.approx(1.3, rel=0.1)


def test_a_throttled_run_and_another_machine_are_said(tmp_path: Path) -> None:
    [before] = read_results(saved(tmp_path / "a.json", noisy(1)))
    [after] = read_results(saved(tmp_path / "b.json", noisy(2), throttled=True))
    after["environment"]["processor"] = "another"
    words = verdict(compare_results(before, after))
    assert "machines differ: processor" in words and "was throttled" in words


def accuracies(*values: float) -> dict[str, Any]:
    row = {"codec": "small/float32", "accuracies": list(values), "bytes_up": 1000.0}
    return {"benchmark": "accuracy-bytes", "rows": [row]}


def test_accuracies_are_compared_seed_by_seed() -> None:
    before = accuracies(0.90, 0.95, 0.97, 0.91, 0.94)
    after = accuracies(*(value - 0.02 for value in before["rows"][0]["accuracies"]))
    accuracy, size = compare_results(before, after).differences
    assert (accuracy.what, size.what) == ("small/float32, accuracy", "small/float32, bytes up")
    assert accuracy.change.changed and not size.change.changed
    assert "small/float32, accuracy: 2 % lower." in verdict(compare_results(before, after))
    mixed = accuracies(0.91, 0.94, 0.98, 0.90, 0.94)
    assert not compare_results(before, mixed).changed


def test_too_few_runs_tell_nothing_and_that_is_said() -> None:
    """A flash is repeated three times; its first row, which stands at the top too, counts once."""
    rows = [
        {"compression": kind, "runs": {"ours": [1.0, 1.1, 1.0], "dd": [1.0] * 5}} for kind in ("xz", "zst")
    ]
    before = {"benchmark": "flash", **rows[0], "results": rows}
    slower = [row | {"runs": {"ours": [9.0, 9.1, 9.2], "dd": [2.0] * 5}} for row in rows]
    comparison = compare_results(before, {"benchmark": "flash", **slower[0], "results": slower})
    assert [each.what for each in comparison.differences] == ["xz, ours", "xz, dd", "zst, ours", "zst, dd"]
    assert [each.note for each in comparison.differences[:2]] == ["3 of 5 runs needed", ""]
    assert [each.change.changed for each in comparison.differences[:2]] == [False, True]
    assert "2 of 4 were measured too seldom to tell." in verdict(comparison)


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "a.json", noisy(1))
    other = saved(tmp_path / "b.json", noisy(1), file="other.tflite")
    odd = saved(tmp_path / "odd.json", [["fast"] * 9, 3, [], [0.0] * 9])  # type: ignore[list-item]
    (tmp_path / "text").write_text("hello")
    (tmp_path / "old.json").write_text('{"benchmark": "latency"}')
    for after, message in (
        (other, "no samples in common"),
        (odd, "no samples in common"),
        (tmp_path / "text", "not JSON"),
        (tmp_path / "old.json", "holds no result of bramble-bench"),
        (tmp_path / "absent", "No such file"),
    ):
        assert main(["compare", str(file), str(after)]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(BenchmarkError, match="cannot be compared"):
        compare_results({"benchmark": "train"}, {"benchmark": "latency"})


def test_rounds_on_another_network_are_something_else() -> None:
    def measured(**network: str) -> list[str]:
        return [
            measure.what for measure in measures_of({"ours": {"name": "ours", "rounds_s": [1.0]}} | network)
        ]

    assert measured() == measured(network="loopback") == ["ours"]
    assert measured(network="namespaces", link="10mbit") == ["namespaces, 10mbit, ours"]
