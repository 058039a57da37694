"""Every layer's gradient, in the runtimes that a device has, against TensorFlow's own.

A step of plain SGD with a learning rate of 1024 shows the gradient; nothing inside the program is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.trainable import CompileResult, compile_trainable
from tests.compression.runtime_worker import Outcome, train
from tests.compression.trainable_cases import (
    RATE,
    Examples,
    assert_close,
    examples,
    input_of,
    keras_gradients,
    revealed,
    run_on_tflite,
)

tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers
Stack = Callable[[], list[Any]]

HEAD = [layers.Flatten, lambda: layers.Dense(1)]


def _conv(**options: Any) -> Stack:
    return lambda: [layers.Conv2D(4, **({"kernel_size": 3} | options)), *(make() for make in HEAD)]


def _around(*make: Callable[[], Any]) -> Stack:
    """Layers between a conv (so that a gradient flows through them) and a dense layer."""
    return lambda: [
        layers.Conv2D(4, 3, padding="same"),
        *(one() for one in make),
        *(one() for one in HEAD),
    ]


CASES: dict[str, tuple[tuple[int, ...], Stack]] = {
    "conv_same": ((8, 8, 1), _conv(padding="same")),
    "conv_valid_odd": ((9, 7, 3), _conv(padding="valid")),
    "conv_even_kernel": ((8, 7, 1), _conv(kernel_size=(2, 4), padding="same")),
    "conv_stride_2": ((9, 8, 1), _around(lambda: layers.Conv2D(5, 3, 2, "same"))),
    "conv_stride_2_valid": ((10, 8, 1), _around(lambda: layers.Conv2D(5, 3, 2, "valid"))),
    "conv_strides_3_1": ((11, 8, 1), _around(lambda: layers.Conv2D(5, 3, (3, 1), "same"))),
    "conv_one_by_one": ((6, 6, 1), _around(lambda: layers.Conv2D(6, 1, use_bias=False))),
    "conv_one_by_one_stride": ((7, 6, 1), _around(lambda: layers.Conv2D(6, 1, 2))),
    "conv_after_conv": ((8, 8, 3), _around(lambda: layers.Conv2D(5, 5, padding="same", activation="relu"))),
    "dense_stack": ((7,), lambda: [layers.Dense(9, activation="relu"), layers.Dense(5), layers.Dense(1)]),
    "max_pool": ((8, 8, 1), _around(layers.ReLU, lambda: layers.MaxPooling2D(2))),
    "max_pool_odd": ((9, 7, 1), _around(lambda: layers.MaxPooling2D(2))),
    "max_pool_overlapping": ((9, 9, 1), _around(lambda: layers.MaxPooling2D(3, 2, "same"))),
    "max_pool_3": ((9, 9, 1), _around(lambda: layers.MaxPooling2D(3))),
    "global_average": (
        (8, 8, 1),
        lambda: [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)],
    ),
    "batch_norm": ((8, 8, 1), _around(layers.BatchNormalization, layers.ReLU)),
    "l2": (
        (6,),
        lambda: [
            layers.Dense(5, kernel_regularizer=tf_keras.regularizers.L2(0.03)),
            layers.Dense(1, kernel_regularizer=tf_keras.regularizers.L1L2(0.01, 0.02)),
        ],
    ),
}


def build(shape: tuple[int, ...], stack: Stack, seed: int = 3) -> Any:
    tf_keras.utils.set_random_seed(seed)
    model = tf_keras.Sequential([layers.Input(shape), *stack()])
    rng = np.random.default_rng(seed)
    for variable in model.weights:  # off the initial zeros and ones, where mistakes hide
        if variable.shape.rank == 1:
            variable.assign_add(rng.uniform(0.1, 0.5, variable.shape))
    return model


def compile_case(shape: tuple[int, ...], model: Any, **options: Any) -> CompileResult:
    return compile_trainable(
        model,
        name="case",
        input=input_of(shape),
        classes=["no", "yes"],
        **({"optimizer": "sgd", "batch_size": 6} | options),
    )


def check(
    result: CompileResult, model: Any, batch: Examples, outcome: Outcome, loss: str, **options: Any
) -> None:
    tolerance = 1e-3 if any("norm" in name for name in result.weights) else 1e-4
    expected = keras_gradients(model, batch, loss, **options)
    assert_close(revealed(result.weights, outcome.weights), expected, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_tensorflows(name: str, tmp_path: Path) -> None:
    shape, stack = CASES[name]
    model = build(shape, stack)
    result = compile_case(shape, model)
    batch = examples(np.random.default_rng(5), shape, 6, real=5)
    here = train(result.bundle, result.weights, [batch], rate=RATE)
    check(result, model, batch, here, "binary_crossentropy")
    there = run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=tmp_path)
    check(result, model, batch, there, "binary_crossentropy")
