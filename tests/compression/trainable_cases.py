"""What the tests of the training compiler share: a step in a runtime, and the same step in TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.spec import ImageInput, TableInput, TrainableBundle
from tests.compression.runtime_worker import Examples, Outcome

CHECKOUT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("runtime_worker.py")
RATE = 1024.0  # SGD's learning rate that makes the step readable as a gradient; a power of two is exact


def examples(
    rng: np.random.Generator, shape: Sequence[int], size: int, classes: int = 2, real: int = 0
) -> Examples:
    """A batch of `size`, of which `real` (0: all) count."""
    weights = np.ones(size, np.float32)
    weights[real or size :] = 0
    return Examples(
        rng.normal(size=(size, *shape)).astype(np.float32),
        rng.integers(0, classes, size).astype(np.int32),
        weights,
    )


def input_of(shape: Sequence[int]) -> ImageInput | TableInput:
    """The spec's input for examples of this shape."""
    if len(shape) == 3:
        return ImageInput(shape[0], shape[1], 3 if shape[2] == 3 else 1)
    return TableInput(tuple(f"c{i}" for i in range(shape[0])), (0.0,) * shape[0], (1.0,) * shape[0])


def tflite_python() -> Path:
    """An interpreter with tflite-runtime; the test is skipped where there is none."""
    path = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not path.exists():
        pytest.skip(
            "no tflite-runtime: make .venv-tflite with Python 3.11, tflite-runtime==2.14.0 and numpy<2, "
            "or set BRAMBLE_TFLITE_PYTHON"
        )
    return path


def run_on_tflite(
    bundle: TrainableBundle,
    weights: Mapping[str, Any],
    batches: Sequence[Examples],
    *,
    rate: float,
    directory: Path,
    seed: int = 0,
) -> Outcome:
    """`runtime_worker.train` in a process with tflite-runtime 2.14 and nothing else a device lacks."""
    return run_in_child(
        bundle, weights, batches, rate=rate, directory=directory, seed=seed, runtime="tflite-runtime"
    )


def run_in_child(
    bundle: TrainableBundle,
    weights: Mapping[str, Any],
    batches: Sequence[Examples],
    *,
    rate: float,
    directory: Path,
    runtime: str,
    seed: int = 0,
) -> Outcome:
    """`runtime_worker.train` in a fresh process with one of the runtimes."""
    python = tflite_python() if runtime == "tflite-runtime" else Path(sys.executable)
    (directory / "bundle").write_bytes(bundle.to_bytes())
    np.savez(directory / "weights.npz", **weights)
    np.savez(
        directory / "batches.npz",
        inputs=np.stack([b.inputs for b in batches]),
        labels=np.stack([b.labels for b in batches]),
        weights=np.stack([b.weights for b in batches]),
    )
    done = subprocess.run(
        [python, WORKER, str(directory), str(rate), str(seed)],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": runtime},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = dict(np.load(directory / "outcome.npz"))
    return Outcome(
        result["losses"].tolist(),
        {name: result[name] for name in weights},
        result["probabilities"],
        float(result["peak_rss_mb"]),
    )


def run_signatures(directory: Path, given: Mapping[str, Any], python: Path) -> dict[str, Any]:
    """Outputs as "signature/output" of model.tflite for inputs as "signature/input", in a fresh process."""
    np.savez(directory / "given.npz", **given)
    done = subprocess.run(
        [python, "-c", SIGNATURES, str(directory)],
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(directory / "found.npz"))


SIGNATURES = """
import sys, numpy as np
from pathlib import Path
from edge_client.runtime import make_interpreter
directory = Path(sys.argv[1])
interpreter = make_interpreter((directory / "model.tflite").read_bytes())
given, found = np.load(directory / "given.npz"), {}
for name in interpreter.get_signature_list():
    inputs = {key.split("/")[1]: given[key] for key in given.files if key.startswith(name + "/")}
    outputs = interpreter.get_signature_runner(name)(**inputs)
    found |= {f"{name}/{key}": value for key, value in outputs.items()}
np.savez(directory / "found.npz", **found)
"""


def keras_loss(loss: str, labels: Any, logits: Any, *, label_smoothing: float = 0.0) -> Any:
    """Mean loss from logits, as Keras has it."""
    import tensorflow as tf
    import tf_keras

    if logits.shape[1] == 1:
        target = tf.cast(labels, tf.float32)[:, tf.newaxis]
        kinds = {
            "binary_crossentropy": lambda: tf_keras.losses.BinaryCrossentropy(
                from_logits=True, label_smoothing=label_smoothing
            ),
            "focal": lambda: tf_keras.losses.BinaryFocalCrossentropy(from_logits=True),
            "mean_squared_error": tf_keras.losses.MeanSquaredError,
        }
        scores = tf.sigmoid(logits) if loss == "mean_squared_error" else logits
    else:
        target = tf.one_hot(labels, logits.shape[1])
        kinds = {
            "categorical_crossentropy": lambda: tf_keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=label_smoothing
            ),
            "focal": lambda: tf_keras.losses.CategoricalFocalCrossentropy(alpha=1.0),
            "mean_squared_error": tf_keras.losses.MeanSquaredError,
        }
        scores = logits if loss == "categorical_crossentropy" else tf.nn.softmax(logits)
    return kinds[loss]()(target, scores)


def keras_gradients(model: Any, batch: Examples, loss: str, **options: Any) -> dict[str, Any]:
    """`tf.GradientTape`'s gradients over the real examples of a batch, by the names of the spec."""
    import tensorflow as tf

    from compression.trainable.variables import travelling_variables

    real = batch.weights > 0
    moved = [item for item in travelling_variables(model) if item.spec.role == "trainable"]
    with tf.GradientTape() as tape:
        logits = model(batch.inputs[real], training=True)
        total = keras_loss(loss, batch.labels[real], logits, **options) + sum(model.losses)
    found = tape.gradient(total, [item.variable for item in moved])
    return {item.spec.name: value.numpy() for item, value in zip(moved, found, strict=True)}


def revealed(before: Mapping[str, Any], after: Mapping[str, Any], rate: float = RATE) -> dict[str, Any]:
    """The gradients that one step of plain SGD reveals."""
    return {name: (before[name].astype(np.float64) - after[name]) / rate for name in before}


def assert_close(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float) -> None:
    """Each tensor of `theirs` within `tolerance` of the largest element of it (1 % of all at least)."""
    largest = max(float(np.abs(value).max()) for value in theirs.values())
    for name, value in theirs.items():
        error = float(np.abs(ours[name] - value).max())
        scale = max(float(np.abs(value).max()), 0.01 * largest)
        assert error <= tolerance * scale, f"{name}: {error / scale:.2e} relative"
