"""Child with TensorFlow: the same model, weights and batch under Keras.

``... DIRECTORY MODEL SHAPE CLASSES BATCH OPTIMIZER THREADS MAX_SECONDS``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_batch import LEARNING_RATE, answer, made_up_batch, time_steps
from compression.tf import tensorflow
from edge_client.measure.children import pin


def main(argv: Sequence[str]) -> int:
    """Train one batch again and again."""
    directory, reference, shape_text, classes, batch, optimizer, threads, max_s = argv
    pin(int(threads))
    started = time.perf_counter()
    tf = tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    from broker_server.models import build_model  # noqa: PLC0415 - after TensorFlow

    shape = tuple(int(extent) for extent in shape_text.split("x"))
    model = build_model(reference, shape, int(classes))
    kept = np.load(Path(directory) / "keras.npz")
    model.set_weights([kept[name] for name in kept.files])
    inputs, labels = made_up_batch(shape, int(batch), int(classes))
    step = keras_step(tf, model, optimizer)
    x, y = tf.constant(inputs), tf.constant(labels)
    load_ms = 1e3 * (time.perf_counter() - started)
    answer(time_steps(lambda: float(step(x, y)), max_s=float(max_s), load_ms=load_ms))
    return 0


def keras_step(tf: Any, model: Any, name: str) -> Any:
    """One traced training step that returns the loss before it."""
    import tf_keras  # noqa: PLC0415

    from compression.trainable.checks import output_activation  # noqa: PLC0415

    optimizers = {
        "sgd": lambda: tf_keras.optimizers.SGD(LEARNING_RATE),
        "momentum": lambda: tf_keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        "nesterov": lambda: tf_keras.optimizers.SGD(LEARNING_RATE, momentum=0.9, nesterov=True),
        "adam": lambda: tf_keras.optimizers.Adam(LEARNING_RATE),
        "adamw": lambda: tf_keras.optimizers.AdamW(LEARNING_RATE),
    }
    optimizer = optimizers[name]()
    binary = int(model.output_shape[-1]) == 1
    kind = tf_keras.losses.BinaryCrossentropy if binary else tf_keras.losses.SparseCategoricalCrossentropy
    loss_of = kind(from_logits=output_activation(model) == "linear")
    optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = loss_of(tf.cast(y, tf.float32)[:, None] if binary else y, outputs)
            if model.losses:
                loss += tf.add_n(model.losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return tf.function(step)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
