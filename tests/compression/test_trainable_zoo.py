"""Every model of the zoo: it compiles, trains on both runtimes, and takes the memory that its plan says."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.models import MODELS, build_model
from compression.trainable import CompileResult, compile_trainable, load_keras_weights
from compression.trainable.plan import plan_memory
from tests.compression.runtime_worker import Examples, Outcome
from tests.compression.trainable_cases import examples, input_of, run_in_child

tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers
BATCH = 16


@pytest.mark.parametrize("name", MODELS)
def test_zoo_entry_builds_with_the_outputs_that_the_classes_want(name: str) -> None:
    entry = MODELS[name]
    assert entry.build(entry.default_input, 2).output_shape == (None, 1)
    assert entry.build(entry.default_input, 5).output_shape == (None, 5)


@lru_cache(maxsize=1)
def compiled(name: str) -> tuple[Any, CompileResult, list[Examples]]:
    shape = MODELS[name].default_input
    model = build_model(name, shape, 2)
    result = compile_trainable(
        model, name=name, input=input_of(shape), classes=["no", "yes"], batch_size=BATCH
    )
    rng = np.random.default_rng(0)
    return model, result, [examples(rng, shape, BATCH, real=real) for real in (BATCH, BATCH - 3)]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("name", MODELS)
def test_zoo_entry_trains_as_keras_would_predict_in_the_memory_of_its_plan(
    name: str, runtime: str, tmp_path: Path
) -> None:
    model, result, batches = compiled(name)
    outcome = run_in_child(
        result.bundle, result.weights, batches, rate=0.001, directory=tmp_path, runtime=runtime
    )
    assert np.isfinite(outcome.losses).all()
    load_keras_weights(model, outcome.weights)
    expected = model.predict(batches[0].inputs, verbose=0)[:, 0]
    np.testing.assert_allclose(outcome.probabilities[:, 1], expected, atol=1e-3)

    check_memory(result, outcome, runtime)
    plan = plan_memory(result.bundle)
    assert plan.rows == BATCH and plan.train_arena_bytes >= plan.evaluate_arena_bytes


def check_memory(result: CompileResult, outcome: Outcome, runtime: str) -> None:
    assert plan_memory(result.bundle).peak_rss_mb[runtime] == pytest.approx(outcome.peak_rss_mb, rel=0.15)


@pytest.mark.slow
def test_a_users_large_model_with_batch_normalisation_takes_the_memory_of_its_plan(tmp_path: Path) -> None:
    """Most of it arena, unlike the zoo's."""
    inputs = x = layers.Input((96, 80, 3))
    for channels in (16, 32):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.MaxPooling2D(2)(layers.ReLU()(layers.BatchNormalization()(x)))
    model = tf_keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))
    result = compile_trainable(
        model, name="user", input=input_of((96, 80, 3)), classes=["no", "yes"], batch_size=BATCH
    )
    batch = examples(np.random.default_rng(0), (96, 80, 3), BATCH)
    for runtime in ("ai-edge-litert", "tflite-runtime"):
        outcome = run_in_child(
            result.bundle, result.weights, [batch] * 2, rate=0.001, directory=tmp_path, runtime=runtime
        )
        check_memory(result, outcome, runtime)
