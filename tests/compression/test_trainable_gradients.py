"""Every layer's gradient, in the runtimes that a device has, against TensorFlow's own.

A step of plain SGD with a learning rate of 1024 shows the gradient; nothing inside the program is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compression.trainable import CompileResult, compile_trainable, keras_weights
from tests.compression.layer_cases import GROUPS, Branches, Case, branches, layers, stack
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

NETWORKS_A_MODEL = 4  # random networks compiled at a time: most of a conversion's time is there without any
RUNTIMES = ("ai-edge-litert", "tflite-runtime")


def compile_branches(shape: tuple[int, ...], made: Branches) -> CompileResult:
    return compile_trainable(
        made.model,
        name="cases",
        input=input_of(shape),
        classes=["no", "yes"],
        optimizer="sgd",
        batch_size=6,
    )


@dataclass(frozen=True)
class Reference:
    """A compiled model of branches, a batch, and TensorFlow's gradients and statistics after it."""

    made: Branches
    result: CompileResult
    batch: Examples
    gradients: dict[str, Any]
    after: dict[str, Any]


def reference(shape: tuple[int, ...], made: Branches, batch: Examples) -> Reference:
    result = compile_branches(shape, made)
    gradients = keras_gradients(made.model, batch, "binary_crossentropy")
    return Reference(made, result, batch, gradients, keras_weights(made.model))


def check(wanted: Reference, runtime: str, directory: Path) -> None:
    """Each case on its own scale: 1e-4 of its largest gradient, 1e-3 through normalisation."""
    result, batch, wrong = wanted.result, wanted.batch, {}
    if runtime == "ai-edge-litert":
        outcome: Outcome = train(result.bundle, result.weights, [batch], rate=RATE)
    else:
        outcome = run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=directory)
    gradients = revealed(result.weights, outcome.weights)
    for case in sorted(set(wanted.made.owner.values())):
        theirs = {name: value for name, value in wanted.gradients.items() if wanted.made.owner[name] == case}
        try:
            assert_close(gradients, theirs, 1e-3 if "norm" in case else 1e-4)
        except AssertionError as exc:
            wrong[case] = str(exc).splitlines()[0]
    assert not wrong
    for tensor in result.bundle.spec.tensors:
        if tensor.role == "statistic":
            ours, theirs_after = outcome.weights[tensor.name], wanted.after[tensor.name]
            np.testing.assert_allclose(ours, theirs_after, rtol=1e-3, atol=1e-4, err_msg=tensor.name)


@lru_cache(maxsize=1)
def compiled(group: str) -> Reference:
    shape, cases = GROUPS[group]
    batch = examples(np.random.default_rng(5), shape, 6, real=5)
    return reference(shape, branches(shape, cases), batch)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("group", GROUPS)
def test_gradient_is_tensorflows(group: str, runtime: str, tmp_path: Path) -> None:
    assert set(compiled(group).made.owner.values()) == set(GROUPS[group][1])
    check(compiled(group), runtime, tmp_path)


@pytest.mark.slow
def test_equal_elements_under_a_pool_share_as_in_tensorflow(tmp_path: Path) -> None:
    """A picture of few values, black at the border as an X-ray: ties in every window."""
    shape = (12, 12, 1)
    made = branches(
        shape,
        {
            "pools": stack(
                lambda: layers.Conv2D(4, 3, padding="same"),
                layers.ReLU,
                lambda: layers.MaxPooling2D(2),
                lambda: layers.MaxPooling2D(3),
            ),
            "overlapping": stack(
                lambda: layers.Conv2D(4, 3, padding="same", activation="relu"),
                lambda: layers.MaxPooling2D(3, 2, "same"),
            ),
            "global": stack(
                lambda: layers.Conv2D(4, 3, activation="relu"),
                lambda: layers.GlobalMaxPooling2D(keepdims=True),
            ),
        },
    )
    batch = examples(np.random.default_rng(5), shape, 6)
    coarse = np.zeros_like(batch.inputs)
    coarse[:, 4:9, 4:9] = np.round(batch.inputs[:, 4:9, 4:9])
    wanted = reference(shape, made, Examples(coarse, batch.labels, batch.weights))
    for runtime in RUNTIMES:
        check(wanted, runtime, tmp_path)


Layers = list[tuple[str, dict[str, Any]]]  # class names and options
SAME_SHAPE: Layers = [
    ("BatchNormalization", {}),
    ("BatchNormalization", {"scale": False, "center": False}),
    ("LayerNormalization", {"epsilon": 1e-2}),
    ("LayerNormalization", {"axis": [1, 2], "epsilon": 1e-2}),
    ("ReLU", {}),
    ("ReLU", {"max_value": 6.0}),
    ("ReLU", {"negative_slope": 0.2}),
    ("LeakyReLU", {"alpha": 0.1}),
    ("Activation", {"activation": "gelu"}),
    ("Activation", {"activation": "hard_sigmoid"}),
    ("squeeze_and_excite", {}),
    ("residual", {"activation": "relu"}),
]
SLIDING = ["Conv2D", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D"]


def squeeze_and_excite() -> Any:
    def block(x: Any) -> Any:
        gate = layers.Dense(2, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(gate)])

    return block


def residual(activation: str) -> Any:
    return lambda x: layers.Activation(activation)(
        layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same")(x)])
    )


COMPOSED = {"squeeze_and_excite": squeeze_and_excite, "residual": residual}


@st.composite
def sliding(draw: st.DrawFn, height: int, width: int) -> tuple[str, dict[str, Any]]:
    """A layer with a window that fits."""
    kind, padding = draw(st.sampled_from(SLIDING)), draw(st.sampled_from(["same", "valid"]))
    size = (draw(st.integers(1, min(4, height))), draw(st.integers(1, min(4, width))))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if kind == "SeparableConv2D":  # Keras refuses others
        strides = strides[:1] * 2
    options: dict[str, Any] = {"strides": strides, "padding": padding}
    if not kind.endswith("Conv2D"):
        return kind, options | {"pool_size": size}
    options |= {"kernel_size": size, "use_bias": draw(st.booleans())}
    options["activation"] = draw(st.sampled_from([None, "relu", "relu6", "tanh", "swish"]))
    if kind != "Conv2D":
        options["depth_multiplier"] = draw(st.integers(1, 2))
        options["depthwise_regularizer"] = draw(st.sampled_from([None, "l2"]))
    if kind != "DepthwiseConv2D":
        options["filters"] = draw(st.integers(1, 20))
    if kind == "Conv2D":
        options["kernel_regularizer"] = draw(st.sampled_from([None, "l1", "l2"]))
    return kind, options


@st.composite
def random_stack(draw: st.DrawFn, height: int, width: int) -> Layers:
    """A small random image network's layers."""
    found: Layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind, options = draw(sliding(height, width))
        found.append((kind, options))
        size = options.get("kernel_size") or options["pool_size"]
        height, width = (
            -(-n // stride) if options["padding"] == "same" else (n - k) // stride + 1
            for n, k, stride in zip((height, width), size, options["strides"], strict=True)
        )
        if height * width > 1 and draw(st.booleans()):
            found.append(draw(st.sampled_from(SAME_SHAPE)))
        if draw(st.integers(0, 5)) == 0:
            found.append(draw(st.sampled_from([("UpSampling2D", {"size": (1, 2)}), ("ZeroPadding2D", {})])))
            height, width = (height, 2 * width) if found[-1][1] else (height + 2, width + 2)
    return found


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[Layers]]:
    """An input, and some random networks that share it."""
    extent = st.integers(5, 11)
    height, width = draw(extent), draw(extent)
    drawn = [draw(random_stack(height, width)) for _ in range(NETWORKS_A_MODEL)]
    return (height, width, draw(st.sampled_from([1, 3]))), drawn


def network(found: Layers) -> Case:
    def make(kind: str, options: dict[str, Any]) -> Any:
        return COMPOSED[kind](**options) if kind in COMPOSED else getattr(layers, kind)(**options)

    return lambda x: reduce(lambda y, one: make(*one)(y), found, layers.Conv2D(2, 3, padding="same")(x))


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(drawn=networks())
def test_random_networks_have_tensorflows_gradients(drawn: Any) -> None:
    shape, stacks = drawn
    cases = {
        f"network {number}{' with norm' if 'Normalization' in str(found) else ''}": network(found)
        for number, found in enumerate(stacks)
    }
    batch = examples(np.random.default_rng(1), shape, 6, real=4)
    wanted = reference(shape, branches(shape, cases), batch)
    with TemporaryDirectory() as directory:
        for runtime in RUNTIMES:
            check(wanted, runtime, Path(directory))
