"""The head of every transfer model: compiled, trained on both runtimes, in the memory of its plan."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from broker_server.models import RANDOM, TRANSFER, build_model
from compression.models.cutting import is_transfer, parts
from compression.spec import FeatureInput, ImageInput
from compression.trainable import CompileResult, compile_trainable
from compression.trainable.plan import plan_memory
from tests.compression.trainable_cases import examples, run_in_child

pytest.importorskip("tf_keras")
BATCH = 16
PICTURE = (32, 32, 3)  # says nothing about the head, and is built quickly


@lru_cache(maxsize=1)
def compiled(name: str) -> CompileResult:
    whole = build_model(f"{name}@{RANDOM}", PICTURE, 2)
    assert is_transfer(whole)
    head = parts(whole)[1]
    steps = FeatureInput(ImageInput(*PICTURE), "0" * 64, int(head.input_shape[1]))
    return compile_trainable(
        head, name=name, input=steps, classes=("no", "yes"), loss="categorical_crossentropy", batch_size=BATCH
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("name", TRANSFER)
def test_a_head_trains_in_the_memory_of_its_plan(name: str, runtime: str, tmp_path: Path) -> None:
    result = compiled(name)
    shape = result.bundle.spec.input.shape
    rng = np.random.default_rng(0)
    batches = [examples(rng, shape, BATCH, real=real) for real in (BATCH, BATCH - 3)]
    outcome = run_in_child(
        result.bundle, result.weights, batches, rate=1e-3, directory=tmp_path, runtime=runtime
    )
    assert np.isfinite(outcome.losses).all() and outcome.probabilities.shape == (BATCH, 2)
    assert plan_memory(result.bundle).peak_rss_mb[runtime] == pytest.approx(outcome.peak_rss_mb, rel=0.15)
