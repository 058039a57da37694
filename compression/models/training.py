"""Training on the workstation: the model a recipe starts from, and the fine-tuning of its steps.

Models end in logits here. Targets are the labels, or the answers of the model before compression, or a
mixture: with the latter the small model is drawn to what the large one says, not away from it by few epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.errors import RecipeError
from compression.tf import tensorflow

FloatArray = npt.NDArray[np.float32]
Report = Callable[[str, float], None]  # what is being done, and the share of it done

BATCH = 32
PREDICT_BATCH = 128


@dataclass(frozen=True, slots=True)
class Examples:
    """Preprocessed inputs float32 [N, *input] and labels int32 [N]."""

    inputs: FloatArray
    labels: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels) or not len(self.labels):
            raise RecipeError(
                f"{len(self.inputs)} examples with {len(self.labels)} labels: give one for each"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def drawn(self, count: int, rng: np.random.Generator) -> Examples:
        """So many of them, or all, each once."""
        chosen = rng.permutation(len(self))[:count]
        return Examples(self.inputs[chosen], self.labels[chosen])


def silent(_what: str, _share: float) -> None:
    """A report that nobody sees."""


def one_hot(labels: npt.NDArray[np.int32], outputs: int) -> FloatArray:
    """Targets [N, outputs]; one output is the second class's."""
    if outputs == 1:
        return labels[:, None].astype(np.float32)
    return np.eye(outputs, dtype=np.float32)[labels]


def answers(model: Any, inputs: FloatArray) -> FloatArray:
    """Probabilities of a model that ends in logits, as targets."""
    tf = tensorflow()
    logits = model.predict(inputs, batch_size=PREDICT_BATCH, verbose=0)
    end = tf.sigmoid if logits.shape[-1] == 1 else tf.nn.softmax
    return np.asarray(end(logits).numpy(), np.float32)


def fit(
    model: Any,
    inputs: FloatArray,
    targets: FloatArray,
    *,
    epochs: int,
    learning_rate: float,
    what: str = "training",
    report: Report = silent,
    callbacks: Sequence[Any] = (),
) -> None:
    """Train with Adam, its rate falling as a cosine to a tenth.

    Raises:
        RecipeError: the loss is no longer finite.
    """
    keras = tensorflow().keras
    losses = keras.losses
    loss = losses.BinaryCrossentropy if int(model.output_shape[-1]) == 1 else losses.CategoricalCrossentropy
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps_of(len(inputs), epochs), alpha=0.1)
    model.compile(keras.optimizers.Adam(rate), loss(from_logits=True))
    done = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _logs: report(what, (epoch + 1) / epochs)
    )
    history = model.fit(
        inputs, targets, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[*callbacks, done]
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise RecipeError(
            f"{what}: the loss is not finite at learning rate {learning_rate}: take a lower one"
        )


def steps_of(examples: int, epochs: int) -> int:
    """Steps of the optimiser."""
    return -(-examples // BATCH) * epochs
