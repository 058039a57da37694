"""The trainer's errors: one type, saying what was met."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compression.spec import SpecError, TableInput, TrainableBundle
from compression.trainable import CompileResult, compile_trainable
from edge_client.data.batches import Batch
from edge_client.training import LiteRTTrainer, TrainingError, TrainSums

tf_keras = pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def result() -> CompileResult:
    model = tf_keras.Sequential([tf_keras.layers.Input((2,)), tf_keras.layers.Dense(1)])
    table = TableInput(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    return compile_trainable(model, name="net", input=table, classes=["no", "yes"], batch_size=4)


def batch(value: float = 1.0, weight: float = 1.0, width: int = 2) -> Batch:
    return Batch(
        np.full((4, width), value, np.float32),
        np.array([0, 1, 0, 1], np.int32),
        np.full(4, weight, np.float32),
    )


def test_weights_come_first(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    calls: list[Any] = [
        trainer.get_weights,
        lambda: trainer.train([batch()], learning_rate=0.1),
        lambda: trainer.evaluate([batch()]),
        lambda: trainer.predict(np.zeros((1, 2), np.float32)),
        lambda: trainer.set_correction({}),
    ]
    for call in calls:
        with pytest.raises(TrainingError, match="call set_weights first"):
            call()


def test_weights_that_do_not_fit_are_refused(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    with pytest.raises(SpecError, match="names or order"):
        trainer.set_weights({})
    with pytest.raises(SpecError, match="not finite"):
        trainer.set_weights({name: value * np.float32("nan") for name, value in result.weights.items()})
    trainer.set_weights(result.weights)
    with pytest.raises(TrainingError, match="correction: dense/kernel"):
        trainer.set_correction({})


def test_a_program_that_is_none_is_refused(result: CompileResult) -> None:
    for tflite in (b"", b"no model", result.bundle.tflite[:200]):
        with pytest.raises(TrainingError, match="'net' does not run here"):
            LiteRTTrainer(replace(result.bundle, tflite=tflite))


def test_broken_inputs_stop_the_training(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    with pytest.raises(TrainingError, match="loss is nan after 0 steps"):
        trainer.train([batch(float("nan"))], learning_rate=0.1)
    with pytest.raises(TrainingError, match="train"):
        trainer.train([batch(width=3)], learning_rate=0.1)


def test_no_examples_are_no_step(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    assert trainer.train([batch(weight=0.0)], learning_rate=0.1) == TrainSums()
    assert TrainSums().loss is None
    assert trainer.evaluate([]).examples == 0
    assert trainer.predict(np.zeros((0, 2), np.float32)).shape == (0, 2)
    for name, value in result.weights.items():
        np.testing.assert_array_equal(trainer.get_weights()[name], value)


def test_prediction_takes_any_number_of_rows(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    inputs = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    together = trainer.predict(inputs)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(together[9:], trainer.predict(inputs[9:]))


def test_sums_add_up(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    sums = trainer.train([batch(), batch(weight=0.5)], learning_rate=0.0)
    assert (sums.examples, sums.steps, sums.weight_sum) == (8, 2, 6.0)
    evaluated = trainer.evaluate([batch(), batch(weight=0.5)])
    assert evaluated.examples == 8
    assert evaluated.loss == pytest.approx(sums.loss, rel=1e-5)


def test_resetting_forgets_momentum(result: CompileResult) -> None:
    trainer = LiteRTTrainer(result.bundle)

    def step() -> np.ndarray[Any, Any]:
        trainer.set_weights(result.weights)
        trainer.train([batch()], learning_rate=0.1)
        return trainer.get_weights()["dense/kernel"]

    first = step()
    assert not np.array_equal(step(), first)  # Adam remembers
    trainer.reset_optimizer()
    np.testing.assert_array_equal(step(), first)


def test_bundle_survives_its_file(result: CompileResult) -> None:
    assert TrainableBundle.from_bytes(result.bundle.to_bytes()).digest == result.bundle.digest
