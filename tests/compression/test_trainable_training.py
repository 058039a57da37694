"""Whole trainings: they follow Keras, and the Keras model with the trained weights predicts the same."""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.models import build_model
from compression.spec import Loss, Optimizer
from compression.trainable import (
    CompileResult,
    TrainableError,
    compile_trainable,
    keras_weights,
    load_keras_weights,
)
from compression.trainable.convert import convert
from compression.trainable.losses import loss_value
from compression.trainable.plan import plan_memory
from edge_client.runtime import make_interpreter
from edge_client.training import LiteRTTrainer, TrainingError
from tests.compression.runtime_worker import Examples, train
from tests.compression.trainable_cases import (
    examples,
    input_of,
    keras_loss,
    run_on_tflite,
    run_signatures,
    tflite_python,
)

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers

KERAS_OPTIMIZERS: dict[Optimizer, Any] = {
    "sgd": tf_keras.optimizers.SGD,
    "momentum": lambda rate: tf_keras.optimizers.SGD(rate, momentum=0.9),
    "nesterov": lambda rate: tf_keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "adam": tf_keras.optimizers.Adam,
    "adamw": tf_keras.optimizers.AdamW,
}


def small_net(outputs: int, activation: str | None, shape: tuple[int, ...] = (8, 8, 1)) -> Any:
    tf_keras.utils.set_random_seed(1)
    return tf_keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.BatchNormalization(momentum=0.8),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(8, activation="relu", kernel_regularizer=tf_keras.regularizers.L2(0.01)),
            layers.Dense(outputs, activation=activation),
        ]
    )


def keras_training(
    model: Any, optimizer: Any, batches: list[Examples], loss: Loss, **options: Any
) -> list[float]:
    """Train a Keras model that ends in logits on the real examples; the losses before each step."""
    losses = []
    for batch in batches:
        real = batch.weights > 0
        with tf.GradientTape() as tape:
            logits = model(batch.inputs[real], training=True)
            plain = keras_loss(loss, batch.labels[real], logits, **options)
            total = plain + sum(model.losses)
        moved = model.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(total, moved), moved, strict=True))
        losses.append(float(plain))
    return losses


@lru_cache
def compiled(optimizer: Optimizer) -> CompileResult:
    """`small_net` with one logit, in batches of 6."""
    return compile_trainable(
        small_net(1, None),
        name="net",
        input=input_of((8, 8, 1)),
        classes=["no", "yes"],
        optimizer=optimizer,
        batch_size=6,
    )


@pytest.mark.parametrize("optimizer", KERAS_OPTIMIZERS)
def test_ten_steps_follow_keras(optimizer: Optimizer, tmp_path: Path) -> None:
    """On both runtimes; the last batch is a smaller one."""
    model, result = small_net(1, None), compiled(optimizer)
    rng = np.random.default_rng(2)
    batches = [examples(rng, (8, 8, 1), 6, real=4 if step == 9 else 6) for step in range(10)]
    theirs = keras_training(model, KERAS_OPTIMIZERS[optimizer](0.01), batches, "binary_crossentropy")
    outcomes = [
        train(result.bundle, result.weights, batches, rate=0.01),
        run_on_tflite(result.bundle, result.weights, batches, rate=0.01, directory=tmp_path),
    ]
    for ours in outcomes:
        np.testing.assert_allclose(ours.losses, theirs, rtol=1e-3)
        for name, value in keras_weights(model).items():  # moving statistics included
            np.testing.assert_allclose(ours.weights[name], value, atol=2e-3, rtol=1e-2, err_msg=name)


LOSSES: list[tuple[Loss, int, str, float]] = [
    ("binary_crossentropy", 1, "sigmoid", 0.0),
    ("binary_crossentropy", 1, "sigmoid", 0.1),
    ("focal", 1, "sigmoid", 0.0),
    ("mean_squared_error", 1, "sigmoid", 0.0),
    ("categorical_crossentropy", 3, "softmax", 0.0),
    ("categorical_crossentropy", 3, "softmax", 0.2),
    ("focal", 3, "softmax", 0.0),
    ("mean_squared_error", 3, "softmax", 0.0),
]


def test_every_loss_and_its_gradient_are_keras_on_both_runtimes(tmp_path: Path) -> None:
    """All in one file, each a function of logits and labels."""
    rng, functions = np.random.default_rng(3), {}
    for place, (loss, outputs, _, smoothing) in enumerate(LOSSES):
        functions[f"loss_{place}"] = tf.function(
            partial(_loss_of, loss, smoothing), autograph=False
        ).get_concrete_function(
            tf.TensorSpec([6, outputs], tf.float32, name="logits"),
            tf.TensorSpec([6], tf.int32, name="labels"),
        )
    (tmp_path / "model.tflite").write_bytes(convert(tf.Module(), functions))
    given = {}
    for place, (_, outputs, _, _) in enumerate(LOSSES):
        given[f"loss_{place}/logits"] = rng.normal(0, 4, (6, outputs)).astype(np.float32)
        given[f"loss_{place}/labels"] = np.arange(6, dtype=np.int32) % max(outputs, 2)
    for python in (Path(sys.executable), tflite_python()):
        found = run_signatures(tmp_path, given, python)
        for place, (loss, _, _, smoothing) in enumerate(LOSSES):
            logits, labels = (tf.constant(given[f"loss_{place}/{name}"]) for name in ("logits", "labels"))
            options = {"label_smoothing": smoothing} if smoothing else {}
            with tf.GradientTape() as tape:
                tape.watch(logits)
                wanted = keras_loss(loss, labels, logits, **options)
            slope = 6 * tape.gradient(wanted, logits).numpy()
            np.testing.assert_allclose(found[f"loss_{place}/value"].mean(), wanted, rtol=1e-4, err_msg=loss)
            np.testing.assert_allclose(
                found[f"loss_{place}/gradient"], slope, rtol=1e-3, atol=1e-5, err_msg=loss
            )


def _loss_of(loss: Loss, smoothing: float, logits: Any, labels: Any) -> dict[str, Any]:
    found = loss_value(loss, logits, labels, label_smoothing=smoothing)
    return {"value": found.value, "gradient": found.gradient}


@pytest.mark.parametrize(("loss", "outputs", "activation", "smoothing"), [LOSSES[1], LOSSES[6]])
def test_losses_and_predictions_are_keras(
    loss: Loss, outputs: int, activation: str, smoothing: float
) -> None:
    """The compiled model ends in an activation, the reference in logits: both train the same."""
    model, reference = small_net(outputs, activation), small_net(outputs, None)
    classes = ["no", "yes"] if outputs == 1 else ["a", "b", "c"]
    result = compile_trainable(
        model,
        name="net",
        input=input_of((8, 8, 1)),
        classes=classes,
        loss=loss,
        optimizer="sgd",
        batch_size=6,
        label_smoothing=smoothing,
    )
    rng = np.random.default_rng(2)
    batches = [examples(rng, (8, 8, 1), 6, classes=len(classes)) for _ in range(4)]
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    ours = [trainer.train([batch], learning_rate=0.1).loss for batch in batches]
    theirs = keras_training(
        reference,
        tf_keras.optimizers.SGD(0.1),
        batches,
        loss,
        **({"label_smoothing": smoothing} if smoothing else {}),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)

    load_keras_weights(model, trainer.get_weights())
    expected = model.predict(batches[0].inputs, verbose=0)
    if outputs == 1:
        expected = np.column_stack([1 - expected, expected])
    np.testing.assert_allclose(trainer.predict(batches[0].inputs), expected, atol=1e-5)


def test_one_logit_and_two_softmax_outputs_learn_the_same_task() -> None:
    """Both ways of two classes are accepted and reach a separable set's labels."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(16, 5)).astype(np.float32)
    batch = Examples(inputs, (inputs[:, 0] > 0).astype(np.int32), np.ones(16, np.float32))
    for outputs, loss in ((1, "binary_crossentropy"), (2, "categorical_crossentropy")):
        model = tf_keras.Sequential([layers.Input((5,)), layers.Dense(outputs)])
        result = compile_trainable(
            model, name="net", input=input_of((5,)), classes=["no", "yes"], loss=loss, batch_size=16
        )
        trainer = LiteRTTrainer(result.bundle)
        trainer.set_weights(result.weights)
        trainer.train([batch] * 150, learning_rate=0.1)
        assert trainer.evaluate([batch]).accuracy == 1.0


def test_padding_changes_nothing() -> None:
    """What stands in the padded rows does not matter, batch statistics included."""
    result = compiled("adam")
    batch = examples(np.random.default_rng(4), (8, 8, 1), 6, real=4)
    other = np.copy(batch.inputs)
    other[4:] = 50.0
    outcomes = []
    for inputs in (batch.inputs, other):
        trainer = LiteRTTrainer(result.bundle)
        trainer.set_weights(result.weights)
        sums = trainer.train([Examples(inputs, batch.labels, batch.weights)], learning_rate=0.01)
        assert (sums.examples, sums.steps, sums.weight_sum) == (4, 1, 4.0)
        outcomes.append(trainer.get_weights())
    for name, value in outcomes[0].items():
        np.testing.assert_allclose(value, outcomes[1][name], atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def dropout_net() -> Any:
    model = tf_keras.Sequential([layers.Input((6,)), layers.Dense(64), layers.Dropout(0.5), layers.Dense(1)])
    return model, compile_trainable(
        model, name="net", input=input_of((6,)), classes=["no", "yes"], optimizer="sgd", batch_size=8
    )


def test_dropout_is_seeded_and_absent_from_predictions(dropout_net: Any) -> None:
    model, result = dropout_net
    batch = examples(np.random.default_rng(3), (6,), 8)
    outcomes = []
    for seed in (1, 1, 2):
        trainer = LiteRTTrainer(result.bundle)
        trainer.set_weights(result.weights)
        predicted = trainer.predict(batch.inputs)[:, 1]
        trainer.train([batch], learning_rate=0.5, rng=np.random.default_rng(seed))
        outcomes.append(trainer.get_weights()["dense/kernel"])
    np.testing.assert_allclose(predicted, tf.sigmoid(model(batch.inputs))[:, 0], atol=1e-6)
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    assert not np.array_equal(outcomes[0], outcomes[2])


def test_dropout_gradient_is_that_of_its_mask(dropout_net: Any) -> None:
    model, result = dropout_net
    batch = examples(np.random.default_rng(3), (6,), 8)
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    trainer.train([batch], learning_rate=64.0, rng=np.random.default_rng(9))
    mask = (np.random.default_rng(9).random((8, 64), dtype=np.float32) >= 0.5) * np.float32(2)
    kernel = model.layers[0].kernel
    with tf.GradientTape() as tape:
        logits = model.layers[2](model.layers[0](batch.inputs) * mask)
        loss = keras_loss("binary_crossentropy", batch.labels, logits)
    ours = (result.weights["dense/kernel"] - trainer.get_weights()["dense/kernel"]) / 64
    np.testing.assert_allclose(ours, tape.gradient(loss, kernel), atol=1e-6)


def test_training_dropout_without_a_generator_is_refused(dropout_net: Any) -> None:
    trainer = LiteRTTrainer(dropout_net[1].bundle)
    trainer.set_weights(dropout_net[1].weights)
    with pytest.raises(TrainingError, match="random generator"):
        trainer.train([], learning_rate=0.1)


def test_proximal_term_and_correction_move_the_step(dropout_net: Any) -> None:
    """One step of SGD: w - rate * (g + mu * (w - anchor) + correction)."""
    model = tf_keras.Sequential([layers.Input((6,)), layers.Dense(1)])
    result = compile_trainable(
        model, name="net", input=input_of((6,)), classes=["no", "yes"], optimizer="sgd", batch_size=4
    )
    batches = [examples(np.random.default_rng(seed), (6,), 4) for seed in (0, 1)]
    correction = {name: np.full_like(value, 0.25) for name, value in result.weights.items()}

    def steps(mu: float, corrected: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        trainer = LiteRTTrainer(result.bundle)
        trainer.set_weights(result.weights)
        trainer.train(batches[:1], learning_rate=0.5)
        middle = trainer.get_weights()
        if corrected:
            trainer.set_correction(correction)
        trainer.train(batches[1:], learning_rate=0.5, proximal_mu=mu)
        return middle, trainer.get_weights()

    middle, plain = steps(0.0, False)
    _, proximal = steps(0.3, False)
    _, corrected = steps(0.0, True)
    for name, anchor in result.weights.items():
        pull = 0.5 * 0.3 * (middle[name] - anchor)
        np.testing.assert_allclose(proximal[name], plain[name] - pull, atol=1e-6)
        np.testing.assert_allclose(corrected[name], plain[name] - 0.125, atol=1e-6)


def assert_no_scalars(tflite: bytes) -> None:
    """ai-edge-litert 2.1 to 2.3 for aarch64 ends in a segmentation fault at the first one."""
    interpreter = make_interpreter(tflite)
    for signature in interpreter.get_signature_list():
        details = interpreter.get_signature_runner(signature).get_input_details()
        assert all(len(each["shape"]) for each in details.values()), signature


def test_micro_batches_take_the_same_steps() -> None:
    """Adding up the gradient of 2 + 2 + 2 examples makes the step of 6, in the last batch too."""
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(1, kernel_regularizer=tf_keras.regularizers.L2(0.1)),
        ]
    )
    rng = np.random.default_rng(2)
    batches = [examples(rng, (6, 6, 1), 6, real=real) for real in (6, 6, 3)]
    outcomes, sums = [], []
    for micro_batch in (None, 2):
        result = compile_trainable(
            model,
            name="net",
            input=input_of((6, 6, 1)),
            classes=["no", "yes"],
            batch_size=6,
            micro_batch=micro_batch,
        )
        assert_no_scalars(result.bundle.tflite)
        trainer = LiteRTTrainer(result.bundle)
        trainer.set_weights(result.weights)
        sums.append(trainer.train(batches, learning_rate=0.01, proximal_mu=0.1))
        outcomes.append(
            (trainer.get_weights(), trainer.evaluate(batches), trainer.predict(batches[0].inputs))
        )
    assert (sums[0].examples, sums[0].steps) == (sums[1].examples, sums[1].steps) == (15, 3)
    assert sums[0].loss == pytest.approx(sums[1].loss, rel=1e-5)
    for name, value in outcomes[0][0].items():
        np.testing.assert_allclose(value, outcomes[1][0][name], atol=1e-5, err_msg=name)
    assert outcomes[0][1].confusion == outcomes[1][1].confusion
    np.testing.assert_allclose(outcomes[0][2], outcomes[1][2], atol=1e-5)
    with pytest.raises(TrainableError, match="micro_batch 4 does not divide batch_size 6"):
        compile_trainable(
            model,
            name="net",
            input=input_of((6, 6, 1)),
            classes=["no", "yes"],
            batch_size=6,
            micro_batch=4,
        )


def test_frozen_layers_neither_move_nor_travel() -> None:
    model = build_model("small_cnn_frozen", (16, 16, 1), 2)
    result = compile_trainable(
        model, name="net", input=input_of((16, 16, 1)), classes=["no", "yes"], batch_size=4
    )
    assert not [name for name in result.weights if name.startswith(("conv1/", "conv2/"))]
    trainer = LiteRTTrainer(result.bundle)
    trainer.set_weights(result.weights)
    batch = examples(np.random.default_rng(0), (16, 16, 1), 4)
    trainer.train([batch] * 3, learning_rate=0.01)
    load_keras_weights(model, trainer.get_weights())
    np.testing.assert_allclose(
        trainer.predict(batch.inputs)[:, 1], model.predict(batch.inputs, verbose=0)[:, 0], atol=1e-5
    )


def test_names_do_not_depend_on_what_was_built_before() -> None:
    first, second = small_net(1, None), small_net(1, None)
    assert list(keras_weights(first)) == list(keras_weights(second))
    load_keras_weights(second, keras_weights(first))
    with pytest.raises(TrainableError, match="not those of model"):
        load_keras_weights(second, {"dense/kernel": np.zeros((1, 1), np.float32)})
    wrong = keras_weights(first) | {"dense_1/bias": np.zeros(9, np.float32)}
    with pytest.raises(TrainableError, match=r"dense_1/bias.*\(9,\)"):
        load_keras_weights(second, wrong)


def _rows(result: Any) -> int:
    return plan_memory(result.bundle).rows


def test_automatic_micro_batches_are_taken_where_they_save_memory() -> None:
    common: Any = {"classes": ["no", "yes"], "batch_size": 10, "micro_batch": "auto"}
    steps = [layers.Conv2D(8, 3), layers.MaxPooling2D(4), layers.Flatten(), layers.Dense(1)]
    pictures = tf_keras.Sequential([layers.Input((96, 96, 1)), *steps])
    split = compile_trainable(pictures, name="net", input=input_of((96, 96, 1)), **common)
    assert _rows(split) == 5  # the smallest divisor of 10 that is at least 4
    rows = tf_keras.Sequential([layers.Input((6,)), layers.Dense(1)])
    assert _rows(compile_trainable(rows, name="net", input=input_of((6,)), **common)) == 10


def test_batch_normalisation_is_never_split() -> None:
    """Its statistics are the whole batch's: refused when asked for, left whole when automatic."""
    net = tf_keras.Sequential(
        [layers.Input((3,)), layers.Dense(2), layers.BatchNormalization(), layers.Dense(1)]
    )
    common: Any = {"name": "net", "input": input_of((3,)), "classes": ["no", "yes"], "batch_size": 8}
    with pytest.raises(TrainableError, match=r"micro_batch 4: layer 'batch_norm.*statistics"):
        compile_trainable(net, micro_batch=4, **common)
    assert _rows(compile_trainable(net, micro_batch="auto", **common)) == 8
    net.layers[1].trainable = False  # frozen, it is an affine layer
    assert _rows(compile_trainable(net, micro_batch=4, **common)) == 4
