"""The child that measures: figures of a real model, and every way in which it may end without any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.measure.latency import measure_model
from edge_client.measure.process import MeasuringProcess
from edge_client.wire.blobs import sha256
from edge_client.wire.measurement import Measurement, MeasurePlan
from tests.edge_client.inference_cases import brightness_model

CHECKOUT = Path(__file__).resolve().parents[2]
PLAN = MeasurePlan(threads=1, runs=50, within_s=0.05)


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)  # between two looks


def measured(path: Path, *command: str, limit_s: float | None = None) -> Measurement:
    found: list[Measurement] = []
    options = {"command": command} if command else {}
    with MeasuringProcess(path, PLAN, limit_s=limit_s, **options) as process:
        wait_for(lambda: (result := process.result()) is not None and found.append(result) is None)
    return found[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(brightness_model())
    return path


@lru_cache
def flex_model() -> bytes:
    import tensorflow as tf

    from compression.tf import quiet

    function = tf.function(tf.linalg.inv).get_concrete_function(tf.TensorSpec((4, 4)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with quiet():
        return bytes(converter.convert())


def test_a_model_is_measured_as_the_plan_says(model: Path) -> None:
    found = measured(model)
    assert (found.model, found.bytes) == (sha256(brightness_model()), len(brightness_model()))
    times = found.timings
    assert 0 < times.min_ms <= times.p50_ms <= times.p90_ms <= times.p99_ms
    assert 5 <= times.runs <= 50 and len(times.samples_ms) == 5  # a repeat has an interpreter of its own
    assert sum(map(len, times.samples_ms)) == times.runs
    assert found.cold_start.process_ms > found.cold_start.load_ms > 0
    assert 10 < found.cold_start.peak_rss_mb < 150
    assert found.runtime.split()[0] in ("ai-edge-litert", "tflite-runtime")
    assert found.environment.architecture == os.uname().machine
    if not Path("/proc/device-tree/model").exists():
        assert "throttling" in found.conditions.missing and found.throttled_flags is None


def test_a_service_that_may_not_choose_its_processors_measures_and_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:  # as the unit's SystemCallFilter does
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    found = measure_model(model, PLAN)
    assert not found.pinned and found.timings.runs >= 5


def test_ops_that_no_device_has_are_named_before_a_runtime_sees_them(tmp_path: Path) -> None:
    (tmp_path / "flex.tflite").write_bytes(flex_model())
    with pytest.raises(UnrunnableError, match="needs FlexMatrixInverse"):
        measured(tmp_path / "flex.tflite")


def test_ops_that_only_the_runtime_misses_are_named(tmp_path: Path) -> None:
    path = tmp_path / "custom.tflite"
    path.write_bytes(flex_model().replace(b"FlexMatrixInverse", b"OursMatrixInverse"))
    with pytest.raises(UnrunnableError, match="the TFLite runtime here has no OursMatrixInverse"):
        measure_model(path, PLAN)


@pytest.mark.parametrize(("data", "why"), [(b"hello world", "not a TFLite file"), (None, "cut short")])
def test_bytes_that_are_no_model_are_an_error(tmp_path: Path, data: bytes | None, why: str) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(brightness_model()[:300] if data is None else data)
    with pytest.raises(MeasureError, match=why) as caught:
        measured(path)
    assert not isinstance(caught.value, UnrunnableError)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashes the runtime \(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGALRM)", "no result within 60 s"),
        ("while True: pass", "no result within 0.3 s"),
        ("raise SystemExit('no runtime')", "cannot be measured: no runtime"),
        ("print('{}')", "cannot be measured: it said nothing"),
        ("print('[1]')", "cannot be measured: it said nothing"),
        ("pass", "cannot be measured: it said nothing"),
        ("""print('{"error": "out of ideas", "refused": false}')""", "out of ideas"),
    ],
)
def test_whatever_happens_to_the_child_is_an_error(model: Path, code: str, why: str) -> None:
    with pytest.raises(MeasureError, match=why):
        measured(model, sys.executable, "-c", code, limit_s=0.3 if "while" in code else 60.0)


def test_a_child_that_cannot_start_is_an_error(model: Path) -> None:
    with pytest.raises(MeasureError, match="No such file"):
        measured(model, "/nowhere/python")


def test_what_the_child_started_ends_with_it(model: Path) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); "
        "open(sys.argv[1] + '.pid', 'w').write(f'{child.pid} '); child.wait()"
    )
    file = model.with_name("model.tflite.pid")
    with MeasuringProcess(model, PLAN, command=(sys.executable, "-c", code)) as process:
        wait_for(lambda: file.exists() and file.read_text().endswith(" "))
        assert process.result() is None
    wait_for(lambda: ended(int(file.read_text())))


def ended(pid: int) -> bool:
    """Gone, or waiting for whoever adopted it to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_child_whose_agent_is_gone_ends_by_itself() -> None:
    code = "from edge_client.measure.child import _limit; _limit(0.1)\nwhile True: pass"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    left = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    assert left.returncode == -signal.SIGALRM
