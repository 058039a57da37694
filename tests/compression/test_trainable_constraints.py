"""What is trained is what is shipped: pruned weights stay zero, int8's rounding is in the forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compression.runtime_worker import Examples, train
from tests.compression.trainable_cases import examples, input_of, run_on_tflite

SHAPE = (8, 8, 1)


def make_model() -> Any:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(5)
    return tf_keras.Sequential(
        [
            layers.Input(SHAPE),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(3, padding="same", name="depth"),
            layers.Flatten(),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dense(1, name="output"),
        ],
        name="constrained",
    )


def compiled(**kept: bool) -> Any:
    from compression.trainable.compiler import compile_trainable
    from compression.trainable.constraints import Constraint

    return compile_trainable(
        make_model(),
        name="constrained",
        input=input_of(SHAPE),
        classes=("a", "b"),
        batch_size=8,
        constraint=Constraint(**kept),
    )


def batches() -> list[Examples]:
    rng = np.random.default_rng(1)
    return [examples(rng, SHAPE, 8) for _ in range(6)]


@pytest.mark.slow
def test_zeros_of_kernels_stay_and_biases_move_on_both_runtimes(tmp_path: Path) -> None:
    from compression.sparsity import prunable, prune_weights

    made = compiled(keep_zeros=True)
    pruned = prune_weights(made.weights, made.bundle.spec.tensors, 0.75)
    for outcome in (
        train(made.bundle, pruned, batches(), rate=0.01),
        run_on_tflite(made.bundle, pruned, batches(), rate=0.01, directory=tmp_path),
    ):
        for name, before in pruned.items():
            after = outcome.weights[name]
            if name in prunable(made.bundle.spec.tensors):
                assert 0 < np.count_nonzero(before) < before.size
                np.testing.assert_array_equal(after == 0, before == 0)
                assert (after != before).any()
            elif name.endswith("bias"):
                assert (before == 0).all() and (after != 0).any()


@pytest.mark.slow
def test_the_forward_pass_is_that_of_rounded_weights_on_both_runtimes(tmp_path: Path) -> None:
    """Against NumPy, for a network of one dense layer."""
    import tf_keras

    from compression.trainable.compiler import compile_trainable
    from compression.trainable.constraints import Constraint

    model = tf_keras.Sequential([tf_keras.layers.Input((6,)), tf_keras.layers.Dense(1, name="output")])
    made = compile_trainable(
        model, name="one", input=input_of((6,)), classes=("a", "b"), batch_size=4, optimizer="sgd",
        constraint=Constraint(fake_int8=True),
    )  # fmt: skip
    rng = np.random.default_rng(3)
    batch = examples(rng, (6,), 4)
    weights = {"output/kernel": rng.normal(size=(6, 1)).astype(np.float32), "output/bias": np.zeros(1, "f4")}
    kernel, x = weights["output/kernel"], batch.inputs
    scale, step = np.abs(kernel).max() / 127, (x.max() - x.min()) / 255
    logits = (np.round(x / step) * step) @ (np.round(kernel / scale) * scale)
    wanted = 1 / (1 + np.exp(-logits))
    gradient = (np.round(x / step) * step).T @ (wanted - batch.labels[:, None]) / 4

    for outcome in (
        train(made.bundle, weights, [batch], rate=1.0),
        run_on_tflite(made.bundle, weights, [batch], rate=1.0, directory=tmp_path),
    ):
        loss = -np.where(batch.labels[:, None] == 1, np.log(wanted), np.log(1 - wanted)).mean()
        assert outcome.losses[0] == pytest.approx(loss, rel=1e-4)
        np.testing.assert_allclose(kernel - outcome.weights["output/kernel"], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_convolutions_with_fake_int8_train_on_both_runtimes(tmp_path: Path) -> None:
    made = compiled(fake_int8=True)
    plain = compiled()
    here = train(made.bundle, made.weights, batches(), rate=0.003)
    there = run_on_tflite(made.bundle, made.weights, batches(), rate=0.003, directory=tmp_path)
    free = train(plain.bundle, plain.weights, batches(), rate=0.003)
    np.testing.assert_allclose(here.losses, there.losses, rtol=1e-2)  # a value on the edge rounds either way
    np.testing.assert_allclose(here.losses, free.losses, rtol=0.1)
    assert here.losses != free.losses


def test_pruning_takes_the_smallest_kernel_weights_and_no_biases() -> None:
    from compression.sparsity import prune_weights
    from compression.spec import TensorSpec

    weights = {"d/kernel": np.array([[3.0, -1.0], [0.0, 2.0]], "f4"), "d/bias": np.array([0.1, 0.2], "f4")}
    specs = [TensorSpec("d/kernel", (2, 2)), TensorSpec("d/bias", (2,))]
    pruned = prune_weights(weights, specs, 0.5)
    np.testing.assert_array_equal(pruned["d/kernel"], [[3, 0], [0, 2]])
    np.testing.assert_array_equal(pruned["d/bias"], weights["d/bias"])
