"""Every layer's gradient, in the runtimes that a device has, against TensorFlow's own.

A step of plain SGD with a learning rate of 1024 shows the gradient; nothing inside the program is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

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
Stack = Callable[[], Any]  # layers for a Sequential, or a model

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


def _between_dense(*make: Callable[[], Any]) -> Stack:
    return lambda: [layers.Dense(8), *(one() for one in make), layers.Dense(1)]


def _joined() -> Any:
    """Add, Multiply and Concatenate, with a squeeze-and-excite block."""
    x = inputs = layers.Input((6, 6, 1))
    a = layers.Conv2D(4, 3, padding="same")(x)
    b = layers.Conv2D(4, 1, activation="tanh")(x)
    x = layers.Add()([a, b, layers.Multiply()([a, b])])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Dense(2, activation="relu")(gate)
    gate = layers.Dense(4, activation="sigmoid")(gate)
    x = layers.Concatenate()([layers.Multiply()([x, gate]), b])
    x = layers.GlobalMaxPooling2D()(x)
    return tf_keras.Model(inputs, layers.Dense(1)(x))


def _nested() -> Any:
    """A model inside a model, and a ReLU that two layers read before a pool."""
    inner_input = layers.Input((4, 4, 3))
    inner = tf_keras.Model(inner_input, layers.Conv2D(3, 3, padding="same", activation="relu")(inner_input))
    inputs = layers.Input((8, 8, 1))
    x = layers.ReLU()(layers.Conv2D(3, 3, padding="same")(inputs))
    pooled = layers.MaxPooling2D(2)(x)
    x = layers.Concatenate()([inner(pooled), layers.AveragePooling2D(2)(x)])
    return tf_keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))


def _frozen_norm() -> list[Any]:
    norm = layers.BatchNormalization()
    norm.trainable = False
    return [layers.Conv2D(3, 3), norm, layers.Flatten(), layers.Dense(1)]


LEAKY = [lambda: layers.LeakyReLU(0.2), lambda: layers.ReLU(negative_slope=0.1), lambda: layers.ReLU(6.0)]
SMOOTH = ["swish", "gelu", "tanh", "sigmoid", "hard_sigmoid", "softmax"]

CASES: dict[str, tuple[tuple[int, ...], Stack]] = {
    "conv_same": ((8, 8, 1), _conv(padding="same")),
    "conv_valid_odd": ((9, 7, 3), _conv(padding="valid")),
    "conv_even_kernel": ((8, 7, 1), _around(lambda: layers.Conv2D(5, (2, 4), padding="same"))),
    "conv_stride_2": ((9, 8, 1), _around(lambda: layers.Conv2D(5, 3, 2, "same"))),
    "conv_stride_2_valid": ((10, 8, 1), _around(lambda: layers.Conv2D(5, 3, 2, "valid"))),
    "conv_strides_3_1": ((11, 8, 1), _around(lambda: layers.Conv2D(5, 3, (3, 1), "same"))),
    "conv_one_by_one": (
        (7, 6, 1),
        _around(
            lambda: layers.Conv2D(6, 1, use_bias=False, activation="relu"), lambda: layers.Conv2D(6, 1, 2)
        ),
    ),
    "conv_wide": (
        (6, 6, 1),
        _around(lambda: layers.Conv2D(24, 3, padding="same"), lambda: layers.Conv2D(24, 3)),
    ),
    "conv_after_conv": ((8, 8, 3), _around(lambda: layers.Conv2D(5, 5, padding="same", activation="relu"))),
    "depthwise": ((8, 7, 3), _around(lambda: layers.DepthwiseConv2D(3, padding="same", activation="relu6"))),
    "depthwise_stride": (
        (9, 8, 1),
        _around(lambda: layers.DepthwiseConv2D(3, 2, "same"), lambda: layers.DepthwiseConv2D(2, 2, "valid")),
    ),
    "depthwise_multiplier": ((6, 6, 1), _around(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2))),
    "separable": (
        (8, 8, 1),
        _around(lambda: layers.SeparableConv2D(6, 3, padding="same", activation="swish")),
    ),
    "dense_stack": ((7,), lambda: [layers.Dense(9, activation="relu"), layers.Dense(5), layers.Dense(1)]),
    "relu_right_behind_a_product": (  # the converter loses it behind tf.matmul
        (7,),
        lambda: [
            layers.Dense(9, activation="relu", use_bias=False),
            layers.Dense(8, use_bias=False),
            layers.ReLU(6.0),
            layers.Dense(1),
        ],
    ),
    "dense_on_pictures": ((4, 4, 1), _around(lambda: layers.Dense(5, activation="relu"))),
    "activations": (
        (7,),
        _between_dense(*LEAKY, *(lambda name=name: layers.Activation(name) for name in SMOOTH)),
    ),
    "softmax_layer": ((7,), _between_dense(layers.Softmax)),
    "layer_norm": ((7,), _between_dense(layers.LayerNormalization)),
    "layer_norm_of_pictures": ((4, 5, 1), _around(lambda: layers.LayerNormalization(epsilon=1e-2))),
    "max_pool": ((8, 8, 1), _around(layers.ReLU, lambda: layers.MaxPooling2D(2))),
    "max_pool_odd": ((9, 7, 1), _around(lambda: layers.MaxPooling2D(2))),
    "max_pool_overlapping": ((9, 9, 1), _around(lambda: layers.MaxPooling2D(3, 2, "same"))),
    "max_pool_same": ((9, 7, 1), _around(layers.ReLU, lambda: layers.MaxPooling2D(2, padding="same"))),
    "average_pool": ((8, 9, 1), _around(lambda: layers.AveragePooling2D(2))),
    "average_pool_overlapping": ((9, 8, 1), _around(lambda: layers.AveragePooling2D(3, 2, "same"))),
    "global_average": (
        (8, 8, 1),
        lambda: [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)],
    ),
    "upsampling_and_padding": (
        (4, 5, 1),
        _around(
            lambda: layers.UpSampling2D((2, 3)),
            lambda: layers.ZeroPadding2D(((1, 0), (2, 1))),
            lambda: layers.Conv2D(3, 3),
            lambda: layers.Reshape((-1, 3)),
        ),
    ),
    "batch_norm": ((8, 8, 1), _around(layers.BatchNormalization, layers.ReLU)),
    "batch_norm_of_rows": ((7,), _between_dense(lambda: layers.BatchNormalization(scale=False), layers.ReLU)),
    "batch_norm_frozen": ((7, 7, 1), _frozen_norm),
    "l2": (
        (6,),
        lambda: [
            layers.Dense(5, kernel_regularizer=tf_keras.regularizers.L2(0.03)),
            layers.Dense(1, kernel_regularizer=tf_keras.regularizers.L1L2(0.01, 0.02)),
        ],
    ),
    "joined": ((6, 6, 1), _joined),
    "nested": ((8, 8, 1), _nested),
}


def build(shape: tuple[int, ...], stack: Stack, seed: int = 3) -> Any:
    tf_keras.utils.set_random_seed(seed)
    made = stack()
    model = tf_keras.Sequential([layers.Input(shape), *made]) if isinstance(made, list) else made
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


def check(result: CompileResult, model: Any, batch: Examples, outcome: Outcome) -> None:
    tolerance = 1e-3 if any("norm" in name for name in result.weights) else 1e-4
    expected = keras_gradients(model, batch, "binary_crossentropy")
    assert_close(revealed(result.weights, outcome.weights), expected, tolerance)


@lru_cache(maxsize=2)
def compiled(name: str) -> tuple[Any, CompileResult, Examples]:
    shape, stack = CASES[name]
    model = build(shape, stack)
    return model, compile_case(shape, model), examples(np.random.default_rng(5), shape, 6, real=5)


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_tensorflows(name: str, runtime: str, tmp_path: Path) -> None:
    model, result, batch = compiled(name)
    if runtime == "ai-edge-litert":
        outcome = train(result.bundle, result.weights, [batch], rate=RATE)
    else:
        outcome = run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=tmp_path)
    check(result, model, batch, outcome)


def test_equal_elements_under_a_pool_share_as_in_tensorflow(tmp_path: Path) -> None:
    """A picture of few values, black at the border as an X-ray: ties in every window."""
    model = build(
        (12, 12, 1), _around(layers.ReLU, lambda: layers.MaxPooling2D(2), lambda: layers.MaxPooling2D(3))
    )
    result = compile_case((12, 12, 1), model)
    batch = examples(np.random.default_rng(5), (12, 12, 1), 6)
    coarse = np.zeros_like(batch.inputs)
    coarse[:, 4:9, 4:9] = np.round(batch.inputs[:, 4:9, 4:9])
    batch = Examples(coarse, batch.labels, batch.weights)
    check(result, model, batch, train(result.bundle, result.weights, [batch], rate=RATE))


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, dict[str, Any]]]]:
    """A small random image network: its input, and its layers as class names and options."""
    extent = st.integers(5, 11)
    shape = (draw(extent), draw(extent), draw(st.sampled_from([1, 3])))
    height, width = shape[:2]
    stack: list[tuple[str, dict[str, Any]]] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(
            st.sampled_from(
                ["Conv2D", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D"]
            )
        )
        padding = draw(st.sampled_from(["same", "valid"]))
        size = (draw(st.integers(1, min(4, height))), draw(st.integers(1, min(4, width))))
        stride = draw(st.integers(1, 3))
        options: dict[str, Any] = {"strides": stride, "padding": padding}
        if kind.endswith("Conv2D"):
            options |= {"kernel_size": size, "use_bias": draw(st.booleans())}
            options["activation"] = draw(st.sampled_from([None, "relu", "relu6", "tanh", "swish"]))
        else:
            options["pool_size"] = size
        if kind in ("Conv2D", "SeparableConv2D"):
            options["filters"] = draw(st.integers(1, 20))
        stack.append((kind, options))
        height, width = (
            -(-n // stride) if padding == "same" else (n - k) // stride + 1
            for n, k in zip((height, width), size, strict=True)
        )
    return shape, stack


@pytest.mark.slow
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(network=networks())
def test_random_networks_have_tensorflows_gradients(network: Any) -> None:
    shape, stack = network
    model = build(
        shape,
        lambda: [
            layers.Conv2D(2, 3, padding="same"),
            *(getattr(layers, kind)(**options) for kind, options in stack),
            *(make() for make in HEAD),
        ],
    )
    result = compile_case(shape, model)
    batch = examples(np.random.default_rng(1), shape, 6, real=4)
    check(result, model, batch, train(result.bundle, result.weights, [batch], rate=RATE))
    with TemporaryDirectory() as directory:
        there = run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=Path(directory))
    check(result, model, batch, there)
