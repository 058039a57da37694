"""``bramble-bench`` from the command line, on real files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.by_op import NoOpTimes, ops_text
from benchmarks.cli import main
from benchmarks.latency import benchmark_latency
from compression.models.export import export_model
from edge_client.measure.children import run_child
from edge_client.measure.errors import MeasureError
from edge_client.measure.model import open_model
from edge_client.measure.timing import TimingRule
from edge_client.runtime import RUNTIMES, runtime_name
from tests.compression.test_models_export import SHAPE, make_model

CHECKOUT = Path(__file__).resolve().parents[2]
QUICK = ["--max-seconds", "0.3", "--warm-up", "0.05"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    examples = np.random.default_rng(0).random((16, *SHAPE), dtype=np.float32)
    for recipe in ("float32", "int8"):
        made = export_model(make_model(), classes=2, recipe=recipe, calibration=examples)  # type: ignore[arg-type]
        (directory / f"{recipe}.tflite").write_bytes(made.tflite)
    return directory


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*[str(argument) for argument in arguments], "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar where there is no terminal
    plain = json.loads(captured.out)
    assert plain["environment"]["architecture"] == os.uname().machine
    return plain


def test_latency_of_two_files_on_two_numbers_of_threads(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [models / "float32.tflite", models / "int8.tflite"]
    plain = json_of(capsys, "latency", *files, "--threads", "1,2", *QUICK)
    rows = plain["models"]
    assert [(Path(row["file"]).stem, row["threads"]) for row in rows] == [
        ("float32", 1),
        ("float32", 2),
        ("int8", 1),
        ("int8", 2),
    ]
    for row in rows:
        times = row["timings"]
        assert 0 < times["min_ms"] <= times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]
        assert times["runs"] > 10 and times["warm_up_runs"] >= 5
        assert row["cold_start"]["process_ms"] > row["cold_start"]["load_ms"] > 0
        assert 20 < row["cold_start"]["peak_rss_mb"] < 150
    assert {row["computes"] for row in rows[2:]} == {"full-integer"}
    assert rows[0]["max_difference"] == 0.0
    assert 0 <= rows[2]["max_difference"] < 0.05
    assert "times a second" in plain["verdict"]


def test_latency_is_a_table_and_a_verdict(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", str(models / "float32.tflite"), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "p50 ms" in text and "float32.tflite answers in" in text and "on: " in text


def test_the_ops_of_each_file_in_each_setting(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [models / "float32.tflite", models / "int8.tflite"]
    found = json_of(capsys, "latency", *files, "--by-op", *QUICK)["operators"]
    assert [each["model"] for each in found] == ["float32.tflite", "int8.tflite"]
    assert all(each["sum_ms"] > 0 and each["whole_ms"] > 0 and "cut out" in each["method"] for each in found)
    assert "QUANTIZE" in {op["op"] for op in found[1]["ops"]}
    assert "leave --batch out" in error_of(capsys, "latency", *files, "--by-op", "--batch", "2")
    skipped = NoOpTimes("model.tflite", "SIGSEGV ended the runtime")
    assert ops_text([skipped]) == "model.tflite, by op: skipped, SIGSEGV ended the runtime"


def test_the_median_is_that_of_a_bare_loop_within_3_percent(models: Path) -> None:
    """By ratio, one right after the other; the machine may be busy, so the best of several tries counts."""
    path = models / "float32.tflite"
    ratios = []
    for _ in range(10):
        [result] = benchmark_latency([path], rule=TimingRule(max_s=0.5, min_s=0.5))
        ratios.append(result.timings.p50_ms / (1e3 * bare_median_s(path)))
        if ratios[-1] == pytest.approx(1.0, abs=0.03):
            return
    pytest.fail(f"over a bare loop: {ratios}")


def bare_median_s(path: Path) -> float:
    """Of several interpreters, as `benchmark_latency` takes several."""
    times = []
    for _ in range(5):
        run = open_model(path.read_bytes(), threads=1).run
        for number in range(3000):
            started = time.perf_counter()
            run()
            times += [time.perf_counter() - started] if number > 100 else []
    return float(np.median(times))


def test_xnnpack_batch_and_pinning_are_in_the_result(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = models / "float32.tflite"
    rows = json_of(capsys, "latency", file, "--xnnpack", "on,off", "--batch", "1,4", *QUICK)["models"]
    assert [(row["xnnpack"], row["batch"]) for row in rows] == [
        (True, 1),
        (True, 4),
        (False, 1),
        (False, 4),
    ]
    assert [row["input_shapes"][0][0] for row in rows] == [1, 4, 1, 4]
    assert rows[2]["max_difference"] == pytest.approx(0.0, abs=1e-5)  # the plain kernels say the same
    assert rows[1]["max_difference"] is None  # other shapes
    assert all(row["pinned"] and row["call_overhead_ms"] >= 0 for row in rows)
    affinity = os.sched_getaffinity(0)
    assert json_of(capsys, "latency", file, "--no-pin", *QUICK)["models"][0]["pinned"] is False
    assert os.sched_getaffinity(0) == affinity


def test_a_runtime_by_name_and_one_that_is_nowhere(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = models / "float32.tflite"
    installed = runtime_name()
    [row] = json_of(capsys, "latency", file, "--runtimes", installed, *QUICK)["models"]
    assert row["runtime"].startswith(installed) and row["timings"]["runs"] > 10
    assert "unknown runtime 'abacus'" in error_of(capsys, "latency", file, "--runtimes", "abacus")
    missing = next(name for name in RUNTIMES if name != installed)
    if not has_runtime(missing):
        assert f"{missing} is not installed here" in error_of(capsys, "latency", file, "--runtimes", missing)


def has_runtime(name: str) -> bool:
    return importlib.util.find_spec(RUNTIMES[name].partition(".")[0]) is not None


def test_models_that_cannot_be_measured_are_one_line(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.tflite").write_bytes((models / "float32.tflite").read_bytes()[:300])
    (tmp_path / "text.tflite").write_text("hello")
    (tmp_path / "bundle.bin").write_bytes(b"BRTB" + bytes(100))
    assert "No such file" in error_of(capsys, "latency", tmp_path / "absent.tflite")
    assert "damaged or cut short" in error_of(capsys, "latency", tmp_path / "broken.tflite")
    assert "not a TFLite file" in error_of(capsys, "size", tmp_path / "text.tflite")
    assert "bramble-bench train --bundle" in error_of(capsys, "latency", tmp_path / "bundle.bin")
    good_then_bad = (models / "float32.tflite", tmp_path / "text.tflite")
    assert "text.tflite" in error_of(capsys, "latency", *good_then_bad)


def test_flex_ops_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    from compression.tf import quiet

    function = tf.function(tf.linalg.inv).get_concrete_function(tf.TensorSpec((4, 4)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with quiet():
        (tmp_path / "flex.tflite").write_bytes(converter.convert())
    assert "needs FlexMatrixInverse" in error_of(capsys, "latency", tmp_path / "flex.tflite")


def test_size_shows_file_zip_weights_sparsity_and_layers(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = json_of(capsys, "size", models / "int8.tflite")["models"]
    report = row["report"]
    assert report["file_bytes"] == (models / "int8.tflite").stat().st_size
    assert report["zipped_bytes"] > 0 and 0 <= row["sparsity"] < 1
    tensors = [tensor for layer in report["layers"] for tensor in layer["tensors"]]
    assert sum(tensor["bytes"] for tensor in tensors) == report["constant_bytes"]
    assert main(["size", str(models / "int8.tflite")]) == 0
    assert "FULLY_CONNECTED" in capsys.readouterr().out


def test_the_environment_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert json_of(capsys, "environment")["benchmark"] == "environment"
    assert main(["environment"]) == 0
    assert "temperature_c" in capsys.readouterr().out


@pytest.mark.slow
def test_training_a_users_model_against_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users_models.py").write_text(
        "import tf_keras\n"
        "def net(shape, classes):\n"
        "    layers = tf_keras.layers\n"
        "    return tf_keras.Sequential([layers.Input(shape), layers.Dense(9, 'relu'), layers.Dense(1)])\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", "users_models:net", "--input", "30", "--batch", "8", "--threads", "1")
    plain = json_of(capsys, "train", *arguments, "--max-seconds", "0.5")
    ours, keras = plain["ours"], plain["keras"]
    assert plain["ratio"]["time"] == pytest.approx(ours["ms_per_step"] / keras["ms_per_step"])
    assert plain["ratio"]["memory"] == pytest.approx(ours["peak_rss_mb"] / keras["peak_rss_mb"])
    assert ours["loss_first"] == pytest.approx(keras["loss_first"], rel=1e-4)  # the same model and batch
    assert ours["loss_last"] < ours["loss_first"] and keras["loss_last"] < keras["loss_first"]
    assert ours["peak_rss_mb"] < 100 < keras["peak_rss_mb"]
    assert plain["runtime"].split()[0] in ("ai-edge-litert", "tflite-runtime")
    assert "Keras takes" in plain["verdict"]


def test_a_bundle_is_trained_without_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compression.commands import make_bundle

    made = make_bundle(
        "broker_server.models.tables:small_mlp",
        input_shape=(6,),
        classes=("a", "b"),
        batch_size=4,
        directory=tmp_path,
    )
    bundle = tmp_path / "bundle.bin"
    plain = json_of(capsys, "train", "--bundle", bundle, "--max-seconds", "0.3")
    assert plain["bundle_bytes"] == made.bundle_bytes
    assert (plain["batch"], plain["keras"], plain["ratio"]) == (4, None, None)
    (tmp_path / "weights.npz").unlink()  # a device has the bundle alone
    assert json_of(capsys, "train", "--bundle", bundle, "--max-seconds", "0.3")["ours"]["runs"] > 5
    assert main(["train", "--bundle", str(bundle), "--max-seconds", "0.1"]) == 0
    assert "ms/step" in capsys.readouterr().out
    assert "not a version 1 training bundle" in error_of(capsys, "train", "--bundle", __file__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nothing"), "unknown model 'nothing'"),
        (("--model", "nowhere:net"), "cannot be loaded"),
        (("--bundle", "absent.bin"), "No such file"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "train", *arguments)


def test_a_child_that_crashes_or_fails_or_hangs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "failing.py").write_text("raise ValueError('out of ideas')")
    (tmp_path / "hanging.py").write_text("while True: pass")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasureError, match="SIGSEGV"):
        run_child("crashing", [])
    with pytest.raises(MeasureError, match="out of ideas"):
        run_child("failing", [])
    with pytest.raises(MeasureError, match="no answer within"):
        run_child("hanging", [], timeout_s=0.3)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["latency"],
        ["latency", "x", "--threads", "0"],
        ["latency", "x", "--precision", "0"],
        ["latency", "x", "--precision", "few"],
        ["latency", "x", "--xnnpack", "maybe"],
        ["peers", "--clients", "0"],
        ["fleet-latency", "--threads", "65"],
        ["fleet-latency", "--within", "600"],
        ["fleet-latency", "--runs", "0"],
        ["fleet-latency", "--wait", "0"],
        ["train", "--input", "8x8"],
        ["train", "--max-seconds", "soon"],
        ["train", "--optimizer", "none"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "command",
    [
        [],
        *[[name] for name in ("latency", "size", "train", "energy", "wire", "accuracy-bytes", "strategies")],
        *[[name] for name in ("aggregate", "flash", "fleet", "fleet-latency", "peers", "compare", "report")],
        ["environment"],
    ],
)
def test_every_help_ends_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out.rpartition("\n\n")[2]


ON_A_DEVICE = """
import json, sys
for name in %r:
    sys.modules[name] = None
from benchmarks.cli import main
sys.exit(main(sys.argv[1:]))
"""
WORKSTATIONS = ("tensorflow", "tf_keras", "matplotlib", "sklearn", "tomli_w", "tomlkit", "yaml", "aiohttp")
WORKSTATIONS += ("amqtt", "bsdiff4", "isal", "jsonschema", "rich", "serial", "zstandard", "xxhash", "psutil")


def on_a_device(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where none of the workstation's packages can be imported."""
    return subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE % (WORKSTATIONS,), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_a_device_can_measure_needs_nothing_of_a_workstation(models: Path) -> None:
    for arguments in (("environment",), ("size", models / "int8.tflite")):
        ran = on_a_device(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["environment"]["cores"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fleet",), "pip install 'bramble[server]'"),
        (("peers",), "pip install 'bramble[server]'"),
        (("flash", "--size-mb", "9"), "pip install 'bramble[server]'"),
        (("strategies", "--dataset", "wisconsin"), "pip install 'bramble[server]'"),
        (("accuracy-bytes", "--dataset", "wisconsin", "--plot", "a.svg"), "a plot needs matplotlib"),
        (("energy", CHECKOUT / "setup.py", "--meter", "um:/dev/ttyUSB0"), "pip install 'bramble[meter]'"),
    ],
)
def test_what_a_device_cannot_measure_names_what_is_missing(
    arguments: tuple[object, ...], message: str
) -> None:
    ran = on_a_device(*arguments)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1 and message in ran.stderr


def test_a_runtime_that_is_not_there_is_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAMBLE_RUNTIME", "abacus")
    assert "BRAMBLE_RUNTIME='abacus' is not one of" in error_of(capsys, "latency", models / "int8.tflite")
