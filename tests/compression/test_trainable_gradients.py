"""Every layer's gradient, in the runtimes that a device has, against TensorFlow's own.

A step of plain SGD with a learning rate of 1024 shows the gradient; nothing inside the program is looked at.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compression.trainable import CompileResult, compile_trainable
from tests.compression.layer_cases import GROUPS, Branches, branches, layers, stack
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

NETWORKS_A_MODEL = 3  # random networks compiled at a time: most of a conversion's time is there without any
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


def check(made: Branches, batch: Examples, gradients: dict[str, Any]) -> None:
    """Each case on its own scale: 1e-4 of its largest gradient, 1e-3 through normalisation."""
    expected = keras_gradients(made.model, batch, "binary_crossentropy")
    wrong = {}
    for case in sorted(set(made.owner.values())):
        theirs = {name: value for name, value in expected.items() if made.owner[name] == case}
        try:
            assert_close(gradients, theirs, 1e-3 if "norm" in case else 1e-4)
        except AssertionError as exc:
            wrong[case] = str(exc).splitlines()[0]
    assert not wrong


def gradients_of(result: CompileResult, batch: Examples, runtime: str, directory: Path) -> dict[str, Any]:
    if runtime == "ai-edge-litert":
        outcome: Outcome = train(result.bundle, result.weights, [batch], rate=RATE)
    else:
        outcome = run_on_tflite(result.bundle, result.weights, [batch], rate=RATE, directory=directory)
    return revealed(result.weights, outcome.weights)


@lru_cache(maxsize=1)
def compiled(group: str) -> tuple[Branches, CompileResult, Examples]:
    shape, cases = GROUPS[group]
    made = branches(shape, cases)
    return made, compile_branches(shape, made), examples(np.random.default_rng(5), shape, 6, real=5)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("group", GROUPS)
def test_gradient_is_tensorflows(group: str, runtime: str, tmp_path: Path) -> None:
    made, result, batch = compiled(group)
    assert set(made.owner.values()) == set(GROUPS[group][1])
    check(made, batch, gradients_of(result, batch, runtime, tmp_path))


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
            )
        },
    )
    result = compile_branches(shape, made)
    batch = examples(np.random.default_rng(5), shape, 6)
    coarse = np.zeros_like(batch.inputs)
    coarse[:, 4:9, 4:9] = np.round(batch.inputs[:, 4:9, 4:9])
    batch = Examples(coarse, batch.labels, batch.weights)
    for runtime in RUNTIMES:
        check(made, batch, gradients_of(result, batch, runtime, tmp_path))


@st.composite
def random_stack(draw: st.DrawFn, height: int, width: int) -> list[tuple[str, dict[str, Any]]]:
    """A small random image network's layers as class names and options."""
    found: list[tuple[str, dict[str, Any]]] = []
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
        found.append((kind, options))
        height, width = (
            -(-n // stride) if padding == "same" else (n - k) // stride + 1
            for n, k in zip((height, width), size, strict=True)
        )
    return found


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[list[tuple[str, dict[str, Any]]]]]:
    """An input, and some random networks that share it."""
    extent = st.integers(5, 11)
    height, width = draw(extent), draw(extent)
    drawn = [draw(random_stack(height, width)) for _ in range(NETWORKS_A_MODEL)]
    return (height, width, draw(st.sampled_from([1, 3]))), drawn


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(network=networks())
def test_random_networks_have_tensorflows_gradients(network: Any) -> None:
    shape, drawn = network
    cases = {
        f"network {number}": stack(
            lambda: layers.Conv2D(2, 3, padding="same"),
            *(lambda kind=kind, options=options: getattr(layers, kind)(**options) for kind, options in found),
        )
        for number, found in enumerate(drawn)
    }
    made = branches(shape, cases)
    result = compile_branches(shape, made)
    batch = examples(np.random.default_rng(1), shape, 6, real=4)
    with TemporaryDirectory() as directory:
        for runtime in RUNTIMES:
            check(made, batch, gradients_of(result, batch, runtime, Path(directory)))
