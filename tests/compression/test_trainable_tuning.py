"""Lowerings: both compute the same, the measured one is taken, a table survives the disk."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from compression.cli import main
from compression.time_signatures import installed_runtime
from compression.trainable import TrainableError, compile_trainable
from compression.trainable.convert import op_names
from compression.trainable.rules import RULES, HotOp, Kind, by_rule, lowerings_of, rule_for
from compression.trainable.tuning import (
    TunedTable,
    cached_table,
    measure,
    read_table,
    recording,
    table_path,
    write_table,
)
from tests.compression.runtime_worker import train
from tests.compression.trainable_cases import RATE, assert_close, examples, input_of, revealed, run_on_tflite

tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers
OP = HotOp("convolution", (4, 10, 10, 16), (3, 3, 16, 32), (1, 1))
TABLE = TunedTable("a runtime 1.0", "a machine", {OP.key: {"conv": 1.0, "matmul": 2.0, "rows": 3.0}})
MODEL = ["tests.compression.test_trainable_tuning:two_convs", "--input", "8x8x1", "--classes", "no,yes"]


def two_convs(shape: tuple[int, ...], _classes: int) -> Any:
    """A model for the commands."""
    steps = [layers.Conv2D(8, 3, padding="same"), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(1)]
    return tf_keras.Sequential([layers.Input(shape), *steps])


def test_a_table_chooses_what_was_faster_and_leaves_the_rest_to_the_rule() -> None:
    assert by_rule(OP) == "rows" and TABLE(OP) == "conv"
    other = HotOp("kernel_gradient", *(OP.picture, OP.kernel, OP.strides))
    assert TABLE(other) == by_rule(other)
    strided = HotOp("convolution", OP.picture, OP.kernel, (2, 2))
    tflite = TunedTable("tflite-runtime 2.14.0", "a machine", TABLE.ms)
    assert tflite(strided) == RULES["tflite-runtime"](strided) == "matmul" != by_rule(strided)


def test_a_picture_of_one_channel_is_depthwise_where_the_table_lacks_that(tmp_path: Path) -> None:
    single = HotOp("convolution", (4, 10, 10, 1), (3, 3, 1, 8), (1, 1))
    assert by_rule(single) == "depthwise" and lowerings_of(single)[-1] == "depthwise"
    assert lowerings_of(HotOp("convolution", single.picture, single.kernel, (2, 1))) == ("conv", "matmul")
    older = {"conv": 1.0, "matmul": 2.0, "rows": 3.0}
    assert TunedTable("r", "m", {single.key: older})(single) == "depthwise"
    assert TunedTable("r", "m", {single.key: {**older, "depthwise": 1.5}})(single) == "conv"


def test_a_table_survives_the_disk_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "table.json"
    write_table(file, TABLE)
    assert read_table(file) == TABLE
    assert list(file.parent.iterdir()) == [file]
    for text in ("", "[]", "{}", '{"format": 2}', file.read_text().replace('conv"', 'cnov"')):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(TrainableError, match=r"bad\.json is not a table of lowerings"):
            read_table(tmp_path / "bad.json")


def test_each_runtime_has_a_rule_of_its_own_and_the_compiler_takes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the runtime that is installed, where no table is in the cache."""
    assert rule_for("tflite-runtime 2.14.0") is RULES["tflite-runtime"]
    assert rule_for(None) is rule_for("unknown 1") is by_rule
    for strides in ((1, 1), (2, 2), (2, 1)):
        for kernel in ((3, 3, 1, 8), (3, 3, 16, 16), (1, 3, 16, 16), (1, 1, 16, 16), (3, 3, 3, 8)):
            for kind in get_args(Kind):
                op = HotOp(kind, (4, 9, 9, kernel[2]), kernel, strides)
                assert all(rule(op) in lowerings_of(op) for rule in RULES.values()), op.key
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = {}
    for runtime in RULES:
        monkeypatch.setattr(
            "compression.trainable.tuning.installed_runtime", lambda name=runtime: f"{name} 1.0"
        )
        result = compile_trainable(
            two_convs((8, 8, 1), 2),
            name="net",
            input=input_of((8, 8, 1)),
            classes=["no", "yes"],
            batch_size=2,
        )
        assert result.lowerings == f"by the rule for {runtime}, measured on x86_64"
        seen[runtime] = op_names(result.bundle.tflite)
    assert "DEPTHWISE_CONV_2D" in seen["ai-edge-litert"] and "DEPTHWISE_CONV_2D" not in seen["tflite-runtime"]


def test_tables_of_different_machines_do_not_mix() -> None:
    newer = TunedTable(TABLE.runtime, TABLE.machine, {OP.key: {"conv": 3.0, "matmul": 2.0}, "x": {}})
    assert TABLE.merged(newer).ms == newer.ms
    with pytest.raises(TrainableError, match="on another cannot be added"):
        TABLE.merged(TunedTable(TABLE.runtime, "another", {}))


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        table_path("a runtime 1.0", "aarch64")
        == tmp_path / "bramble" / "lowerings-a-runtime-1.0-aarch64.json"
    )
    assert cached_table() is None
    runtime = installed_runtime()
    assert runtime is not None
    here = table_path(runtime, platform.machine())
    write_table(here, TABLE)
    assert cached_table() == TABLE
    here.write_text("damaged")
    with pytest.raises(TrainableError, match="remove it, or make one"):
        cached_table()


def _or_conv(lowering: Any) -> Any:
    return lambda op: lowering if lowering in lowerings_of(op) else "conv"


def test_all_lowerings_have_the_same_gradients_on_both_runtimes(tmp_path: Path) -> None:
    """Strided and 1x1 convolutions, each lowered in the way that the rule avoids too."""
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential(
        [
            layers.Input((9, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="tanh"),
            layers.Conv2D(8, 1, strides=2),
            layers.Flatten(),
            layers.Dense(1, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.05)),
        ]
    )
    batch = examples(np.random.default_rng(0), (9, 8, 1), 4)
    gradients, found = [], dict[str, HotOp]()
    choosers: list[Any] = [recording(found), lambda _op: "conv", _or_conv("matmul"), _or_conv("rows")]
    for chooser in choosers:
        result = compile_trainable(
            model,
            name="net",
            input=input_of((9, 8, 1)),
            classes=["no", "yes"],
            optimizer="sgd",
            batch_size=4,
            lowerings=chooser,
        )
        for outcome in (
            train(result.bundle, result.weights, [batch], rate=RATE),
            run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=tmp_path),
        ):
            gradients.append(revealed(result.weights, outcome.weights))
    assert {op.kind for op in found.values()} == {"convolution", "kernel_gradient", "input_gradient"}
    for other in gradients[1:]:
        assert_close(other, gradients[0], 1e-4)


def test_the_command_measures_and_the_compiler_takes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.json"
    assert main(["tune", *MODEL, "--batch", "2", "--out", str(file), "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    table = read_table(file)
    assert {row[0] for row in tuned["rows"]} == set(table.ms)
    assert all(time > 0 for times in table.ms.values() for time in times.values())
    for key, times, chosen, _rule in tuned["rows"]:
        assert times[chosen] == min(times.values()), key
    common = ["trainable", *MODEL, "--batch", "2", "--out", str(tmp_path / "bundle"), "--json"]
    assert main([*common, "--lowerings", str(file)]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["lowerings"] == f"measured with {table.runtime} on {table.machine}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_table(table_path(table.runtime, table.machine), table)
    assert main(common) == 0
    assert json.loads(capsys.readouterr().out) == given  # the same program, found by itself
    assert main(["profile", str(tmp_path / "bundle" / "bundle.bin"), "--json"]) == 0
    profiled = json.loads(capsys.readouterr().out)
    assert {"BATCH_MATMUL", "MUL"} <= {op["op"] for op in profiled["ops"]}
    totals = [op["count"] * op["ms"] for op in profiled["ops"]]
    assert totals == sorted(totals, reverse=True) and min(totals) >= 0
    assert any(line.startswith("VAR_HANDLE") for line in profiled["left_out"])
    (tmp_path / "other").write_text("no table")
    assert main([*common, "--lowerings", str(tmp_path / "other")]) == 1
    assert "is not a table of lowerings" in capsys.readouterr().err


def test_what_cannot_be_measured_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainableError, match="no convolution"):
        measure([])
    small = HotOp("convolution", (1, 4, 4, 1), (3, 3, 1, 2), (1, 1))
    with pytest.raises(TrainableError, match="cannot time anything"):
        measure([small], python=str(tmp_path / "python"))
    quiet_python = tmp_path / "quiet"
    quiet_python.write_text("#!/bin/sh\n")
    quiet_python.chmod(0o755)
    with pytest.raises(TrainableError, match="it said nothing"):
        measure([small], python=str(quiet_python))
    assert set(measure([small], python=sys.executable).ms) == {small.key}
