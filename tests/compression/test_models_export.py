"""Exported files: the same answers as Keras, builtin ops only, and the truth about what they became."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.models.errors import ExportError
from compression.models.export import RECIPES, ExportedModel, calibration_of, export_model
from compression.models.tflite_file import read_tflite
from tests.compression.models_worker import predict

CHECKOUT = Path(__file__).resolve().parents[2]
SHAPE = (12, 12, 1)
INT8_STEP = 1 / 256  # of the logistic function's and softmax's output, by definition
INT16_STEP = 1 / 32768


def make_model(classes: int = 2, ending: str = "sigmoid") -> Any:
    """Conv, pool and two dense layers; large enough that dynamic-range quantisation touches a weight."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(7)
    outputs = 1 if classes == 2 else classes
    steps = [
        layers.Input(SHAPE),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
    ]
    if ending == "Softmax":
        steps += [layers.Dense(outputs), layers.Softmax()]
    elif ending == "Activation":
        steps += [layers.Dense(outputs), layers.Activation("softmax")]
    else:
        steps += [layers.Dense(outputs, activation=ending)]
    return tf_keras.Sequential(steps, name="tiny")


@pytest.fixture(scope="module")
def inputs() -> Any:
    return np.random.default_rng(3).random((40, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def exported(inputs: Any) -> dict[str, ExportedModel]:
    model = make_model()
    return {
        recipe: export_model(
            model, classes=2, recipe=recipe, calibration=inputs if recipe.startswith("int") else None
        )
        for recipe in RECIPES
    }


@pytest.mark.parametrize(
    ("classes", "ending"),
    [(2, "sigmoid"), (2, "linear"), (3, "softmax"), (3, "linear"), (3, "Softmax"), (3, "Activation")],
)
def test_a_float32_file_answers_as_keras_does(classes: int, ending: str, inputs: Any) -> None:
    model = make_model(classes, ending)
    before = model(inputs).numpy()
    tflite = export_model(model, classes=classes, recipe="float32").tflite
    after = model(inputs).numpy()

    np.testing.assert_array_equal(before, after)  # the model is as it was
    if ending == "linear":
        before = 1 / (1 + np.exp(-before)) if classes == 2 else np.exp(before)
        before = before if classes == 2 else before / before.sum(axis=1, keepdims=True)
    wanted = np.hstack([1 - before, before]) if classes == 2 else before
    np.testing.assert_allclose(predict(tflite, inputs), wanted, atol=1e-6)


def test_a_model_inside_a_model_loses_its_last_activation_too(inputs: Any) -> None:
    import tf_keras

    inner = make_model(3, "softmax")
    source = tf_keras.layers.Input(SHAPE)
    outer = tf_keras.Model(source, inner(source), name="outer")
    tflite = export_model(outer, classes=3, recipe="float32").tflite
    np.testing.assert_allclose(predict(tflite, inputs), inner(inputs).numpy(), atol=1e-6)


def test_each_recipe_becomes_what_it_is_called(exported: dict[str, ExportedModel]) -> None:
    assert {name: item.calibration for name, item in exported.items()} == {
        "float32": "none",
        "dynamic": "dynamic-range",
        "float16": "none",
        "int8": "full-integer",
        "int16x8": "full-integer",
    }
    assert exported["int8"].float_ops == ()
    assert "FULLY_CONNECTED" in exported["dynamic"].float_ops
    assert len(exported["int8"].tflite) < len(exported["float32"].tflite) / 2
    for item in exported.values():
        assert not any(name.startswith("CUSTOM") for name in item.ops)


def test_the_ends_of_an_int8_file_are_float32_with_a_batch_of_one(
    exported: dict[str, ExportedModel],
) -> None:
    graph = read_tflite(exported["int8"].tflite).graphs[0]
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    assert [(tensor.type, tensor.shape) for tensor in ends] == [
        ("float32", (1, *SHAPE)),
        ("float32", (1, 2)),
    ]


def test_an_int8_binary_model_rounds_both_columns_alike(
    exported: dict[str, ExportedModel], inputs: Any
) -> None:
    exact = predict(exported["float32"].tflite, inputs)
    rounded = predict(exported["int8"].tflite, inputs)
    np.testing.assert_allclose(rounded.sum(axis=1), 1, atol=INT8_STEP / 2)
    np.testing.assert_allclose(rounded, exact, atol=0.02)


def test_int8_without_a_calibration_set_says_that_it_is_not_full_integer() -> None:
    assert export_model(make_model(), classes=2, recipe="int8").calibration == "dynamic-range"


def test_weights_too_small_to_be_quantised_are_not_called_quantised() -> None:
    import tf_keras

    small = tf_keras.Sequential([tf_keras.layers.Input((5,)), tf_keras.layers.Dense(1)], name="small")
    assert export_model(small, classes=2, recipe="dynamic").calibration == "none"


def test_an_op_that_stays_in_float_is_named() -> None:
    """ELU has no int8 kernel: the converter leaves it in float32 without a word."""
    import tf_keras
    from tf_keras import layers

    model = tf_keras.Sequential(
        [layers.Input((64,)), layers.Dense(64), layers.ELU(), layers.Dense(1)], name="elu"
    )
    examples = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    item = export_model(model, classes=2, recipe="int8", calibration=examples)
    assert item.calibration == "dynamic-range"
    assert "ELU" in item.float_ops


def test_both_runtimes_answer_alike(exported: dict[str, ExportedModel], inputs: Any, tmp_path: Path) -> None:
    python = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not python.exists():
        pytest.skip("no tflite-runtime: make .venv-tflite, or name its Python in BRAMBLE_TFLITE_PYTHON")
    np.save(tmp_path / "inputs.npy", inputs)
    for name, item in exported.items():
        (tmp_path / f"{name}.tflite").write_bytes(item.tflite)
    subprocess.run(
        [python, Path(__file__).with_name("models_worker.py"), tmp_path],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": "tflite-runtime"},
        check=True,
        timeout=60,
        capture_output=True,
    )
    steps = {"int8": INT8_STEP, "int16x8": INT16_STEP}
    for name, tolerance in {name: steps.get(name, 0) + 1e-6 for name in RECIPES}.items():
        here = predict(exported[name].tflite, inputs)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), here, atol=tolerance)


def test_what_does_not_fit_is_refused_by_name(inputs: Any) -> None:
    import tf_keras
    from tf_keras import layers

    model = make_model()
    with pytest.raises(ExportError, match="has 1 outputs for 3 classes"):
        export_model(model, classes=3, recipe="float32")
    with pytest.raises(ExportError, match="unknown recipe 'tiny'"):
        export_model(model, classes=2, recipe="tiny")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="7 calibration examples are too few"):
        export_model(model, classes=2, recipe="int8", calibration=inputs[:7])
    with pytest.raises(ExportError, match="the model takes"):
        export_model(model, classes=2, recipe="int8", calibration=inputs[:, :4])
    with pytest.raises(ExportError, match="not finite"):
        export_model(model, classes=2, recipe="int8", calibration=np.full_like(inputs, np.nan))
    with pytest.raises(ExportError, match="int16x8 with float32 in and out needs calibration"):
        export_model(model, classes=2, recipe="int16x8")
    with pytest.raises(ExportError, match="dynamic with uint8 in and out needs calibration"):
        export_model(model, classes=2, recipe="dynamic", ports="uint8")
    with pytest.raises(ExportError, match="ends in tanh"):
        export_model(make_model(2, "tanh"), classes=2, recipe="float32")
    with pytest.raises(ExportError, match="begin it with Input"):
        export_model(tf_keras.Sequential([layers.Dense(1)]), classes=2, recipe="float32")
    with pytest.raises(ExportError, match="give every extent but the batch"):
        source = layers.Input((None, 8, 1))
        pooled = layers.GlobalAveragePooling2D()(source)
        export_model(tf_keras.Model(source, layers.Dense(1)(pooled)), classes=2, recipe="float32")
    with pytest.raises(ExportError, match="one output of shape"):
        export_model(
            tf_keras.Sequential([layers.Input(SHAPE), layers.Conv2D(1, 3)]), classes=2, recipe="float32"
        )


def test_a_model_that_needs_tensorflow_ops_is_refused() -> None:
    import tensorflow as tf
    import tf_keras
    from tf_keras import layers

    model = tf_keras.Sequential(
        [
            layers.Input((4,)),
            layers.Reshape((2, 2)),
            layers.Lambda(tf.linalg.inv),
            layers.Flatten(),
            layers.Dense(1),
        ],
        name="inverse",
    )
    with pytest.raises(ExportError, match="'inverse' cannot be converted"):
        export_model(model, classes=2, recipe="float32")


def test_conversion_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str], inputs: Any) -> None:
    export_model(make_model(), classes=2, recipe="int8", calibration=inputs)
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_calibration_of_reads_bytes(exported: dict[str, ExportedModel]) -> None:
    assert calibration_of(exported["int8"].tflite) == "full-integer"


def test_only_the_converters_noise_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    from compression.tf import quiet

    with quiet():
        os.write(2, b"W0000 00:00:17 1 file.cc:1] advice\nfully_quantize: 0\n")
        print("a user's own line", file=sys.stderr)
    assert capfd.readouterr().err == "a user's own line\n"


def test_a_fresh_process_converts_without_a_word(tmp_path: Path) -> None:
    """TensorFlow talks most while it is imported and runs its first op."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "compression.cli", "export", "broker_server.models.tables:small_mlp"),
            *("--input", "30", "--classes", "a,b", "--out", tmp_path / "model.tflite"),
        ],
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(str(tmp_path / "model.tflite"))
