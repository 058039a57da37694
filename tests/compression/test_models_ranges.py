"""Federated calibration: the devices' ranges give the file that the pooled examples give."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.calibration import CalibrationError, merge_ranges
from compression.models.errors import ExportError
from compression.records import RecordError
from edge_client.inference.predictor import PredictionError
from edge_client.inference.ranges import measure_ranges
from edge_client.wire.ranges import ActivationRanges
from tests.compression.models_worker import predict

CHECKOUT = Path(__file__).resolve().parents[2]
SHAPE = (12, 12, 1)
SCRIPT = """
import json, sys, numpy as np
from edge_client.inference.ranges import measure_ranges
program, tensors, inputs, out = sys.argv[1:]
found = measure_ranges(open(program, "rb").read(), json.loads(tensors), np.load(inputs))
json.dump([found.low, found.high], open(out, "w"))
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def model() -> Any:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(7)
    steps = [
        layers.Input(SHAPE),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ]
    return tf_keras.Sequential(steps, name="tiny")


@pytest.fixture(scope="module")
def program(model: Any) -> Any:
    from compression.models.ranges import range_program

    return range_program(model, 2)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return np.random.default_rng(3).random((30, *SHAPE), dtype=np.float32)


def test_three_devices_give_what_the_pooled_examples_give(model: Any, program: Any, inputs: Any) -> None:
    from compression.models.export import export_model
    from compression.models.ranges import quantise_with_ranges

    reports = [measure_ranges(program.tflite, program.tensors, inputs[part::3]) for part in range(3)]
    federated = quantise_with_ranges(program, merge_ranges(reports))
    pooled = export_model(model, classes=2, recipe="int8", calibration=inputs)
    assert federated.calibration == "full-integer" and federated.float_ops == ()
    np.testing.assert_array_equal(predict(federated.tflite, inputs), predict(pooled.tflite, inputs))


def test_both_runtimes_find_the_same_ranges(program: Any, inputs: Any, tmp_path: Path) -> None:
    python = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not python.exists():
        pytest.skip("no tflite-runtime: make .venv-tflite, or name its Python in BRAMBLE_TFLITE_PYTHON")
    (tmp_path / "program.tflite").write_bytes(program.tflite)
    np.save(tmp_path / "inputs.npy", inputs)
    arguments = ["program.tflite", json.dumps(program.tensors), "inputs.npy", "found.json"]
    subprocess.run(
        [python, "-c", SCRIPT, *arguments],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": "tflite-runtime"},
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    here = measure_ranges(program.tflite, program.tensors, inputs)
    np.testing.assert_allclose(
        json.loads((tmp_path / "found.json").read_text()), [here.low, here.high], atol=1e-5
    )


def test_the_input_range_is_known_by_hand_and_clipping_narrows_it(program: Any) -> None:
    ramp = np.linspace(0, 1, 144, dtype=np.float32).reshape(1, *SHAPE)
    entry = program.tensors[0]  # the picture itself
    plain = measure_ranges(program.tflite, [entry], ramp)
    clipped = measure_ranges(program.tflite, [entry], ramp, clip_percent=10)
    assert (plain.low, plain.high) == ((0.0,), (1.0,))
    assert (clipped.low[0], clipped.high[0]) == (pytest.approx(0.1), pytest.approx(0.9))


def test_noise_has_the_size_that_was_asked_for(program: Any) -> None:
    ramp = np.linspace(0, 1, 144, dtype=np.float32).reshape(1, *SHAPE)
    rng = np.random.default_rng(0)
    found = [
        measure_ranges(program.tflite, program.tensors[:1], ramp, noise=0.05, rng=rng).high[0]
        for _ in range(200)
    ]
    assert np.std(found) == pytest.approx(0.05, rel=0.2) and np.mean(found) == pytest.approx(1, abs=0.02)


def ranges(low: float, high: float, tensor: int = 0) -> ActivationRanges:
    return ActivationRanges("a" * 64, (tensor,), (low,), (high,), 10)


def test_the_widest_counts_but_no_device_shouts_the_others_down() -> None:
    honest = [ranges(-1.0, 1.0), ranges(-1.0, 2.0), ranges(0.5, 3.0)]  # extents 2, 3, 3: zero is in each
    assert merge_ranges(honest) == {0: (-1.0, 3.0)}
    assert merge_ranges([*honest, ranges(-1e9, 1e9)]) == {0: (-12.0, 12.0)}  # 4 times the median extent, 3


@pytest.mark.filterwarnings("error")
def test_a_tensor_that_is_dead_on_most_devices_keeps_its_range_on_the_others() -> None:
    dead = [ranges(0.0, 0.0)] * 3
    assert merge_ranges([*dead, ranges(0.0, 2.0)]) == {0: (0.0, 2.0)}
    assert merge_ranges([*dead, ranges(0.0, 2.0), ranges(0.0, 3.0), ranges(0.0, 1e9)]) == {0: (0.0, 12.0)}
    assert merge_ranges(dead) == {0: (0.0, 0.0)}


def test_reports_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no device"):
        merge_ranges([])
    with pytest.raises(CalibrationError, match="different models"):
        merge_ranges([ranges(0.0, 1.0), ranges(0.0, 1.0, tensor=4)])
    with pytest.raises(RecordError, match="ends below"):
        ranges(1.0, 0.0)
    with pytest.raises(RecordError, match="ascending"):
        ActivationRanges("a" * 64, (2, 1), (0.0, 0.0), (1.0, 1.0), 3)
    with pytest.raises(RecordError, match="differ in length"):
        ActivationRanges("a" * 64, (1,), (0.0, 0.0), (1.0,), 3)


def test_ranges_that_do_not_fit_the_program_are_refused(program: Any, inputs: Any) -> None:
    from compression.models.ranges import quantise_with_ranges

    whole = dict.fromkeys(program.tensors, (0.0, 1.0))
    with pytest.raises(ExportError, match="has no range"):
        quantise_with_ranges(program, {})
    with pytest.raises(ExportError, match="has the range 1"):
        quantise_with_ranges(program, {**whole, program.tensors[1]: (1.0, float("nan"))})
    with pytest.raises(ExportError, match="cannot be quantised"):
        quantise_with_ranges(replace(program, tflite=b"no file at all"), whole)
    with pytest.raises(PredictionError, match="no example"):
        measure_ranges(program.tflite, program.tensors, inputs[:0])
    with pytest.raises(PredictionError, match="cannot be measured"):
        measure_ranges(program.tflite, [10_000], inputs)


def test_a_dead_activation_still_makes_a_file(program: Any, inputs: Any) -> None:
    from compression.models.ranges import quantise_with_ranges

    dead = dict.fromkeys(program.tensors, (0.0, 0.0))
    assert np.isfinite(predict(quantise_with_ranges(program, dead).tflite, inputs[:2])).all()
