"""From a model's name and the fleet's data to the training bundle, and the model on the server's side.

TensorFlow lives here and in the rooms below; it is imported when the first model is built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from broker_server.config import ModelConfig
from broker_server.models import build_model
from broker_server.models.errors import ModelError
from compression.sparsity import is_kernel, prunable
from compression.spec import ImageInput, Input, Loss, ModelSpec, TableInput, TrainableBundle, Weights
from compression.tf import quiet, tensorflow
from edge_client.data import DataSource, LocalData, batches
from edge_client.data.catalogue import Progress
from edge_client.training import LiteRTTrainer
from edge_client.training.examples import load_examples
from edge_client.training.features import ReadFile
from edge_client.wire.evaluation import EvaluationSums

if TYPE_CHECKING:
    from compression.trainable import CompileResult

log = logging.getLogger(__name__)


def choose_loss(config: ModelConfig, classes: Sequence[str]) -> Loss:
    """The loss asked for, or the usual one for this number of classes."""
    if config.loss:
        return config.loss
    return "binary_crossentropy" if len(classes) == 2 else "categorical_crossentropy"


def image_input(config: ModelConfig) -> ImageInput:
    """The pictures' size and channels as configured."""
    return ImageInput(height=config.height, width=config.width, channels=config.channels)


def compile_program(
    config: ModelConfig, input: ImageInput | TableInput, classes: Sequence[str]
) -> tuple[TrainableBundle, Weights]:
    """Build the model and compile its training program; with it come the first weights."""
    with quiet():
        tensorflow()  # sets its loggers' levels while it is imported: they are quietened after
    with quiet():
        model = seeded_model(config, input.shape, len(classes))
        result = compile_model(
            config, model, input, classes, name=config.name, loss=choose_loss(config, classes)
        )
    return result.bundle, result.weights


def compile_model(
    config: ModelConfig, model: Any, input: Input, classes: Sequence[str], *, name: str, loss: Loss
) -> CompileResult:
    """Compile a Keras model's training program by the settings."""
    from compression.trainable import compile_trainable
    from compression.trainable.constraints import Constraint

    result = compile_trainable(
        model,
        name=name,
        input=input,
        classes=classes,
        loss=loss,
        optimizer=config.optimizer,
        batch_size=config.batch_size,
        micro_batch=config.micro_batch,
        augmentation=config.augmentation,
        constraint=Constraint(keep_zeros=config.sparsity > 0, fake_int8=config.fake_int8),
    )
    check_constraints(config, result)
    log.info("compiled %s, lowerings %s", name, result.lowerings)
    return result


def check_constraints(config: ModelConfig, made: CompileResult) -> None:
    """Raise `ModelError` for a model with nothing to prune or to round, or a layer that would stay dead."""
    tensors = made.bundle.spec.tensors
    if config.fake_int8 and not any(is_kernel(tensor.name) for tensor in tensors):
        raise ModelError(f"{config.name} has no kernel to round: leave model.fake_int8 out")
    if not config.sparsity:
        return
    kernels = prunable(tensors)
    if not kernels:
        raise ModelError(
            f"{config.name} has no kernel to prune (depthwise ones are left whole): leave model.sparsity out"
        )
    if dead := next((name for name in kernels if not made.weights[name].any()), None):
        raise ModelError(
            f"{config.name}: {dead} begins as zeros, and with model.sparsity zeros stay: begin it otherwise"
        )


def seeded_model(config: ModelConfig, shape: Sequence[int], classes: int) -> Any:
    """The Keras model of the settings; the same seed gives the same first weights."""
    tensorflow().keras.utils.set_random_seed(config.seed)
    return build_model(config.name, shape, classes)


def trained_model(config: ModelConfig, spec: ModelSpec, weights: Weights) -> Any:
    """The Keras model of the settings with the fleet's weights in it."""
    model = seeded_model(config, spec.raw_input.shape, len(spec.classes))
    from compression.models.cutting import trained_part
    from compression.trainable import load_keras_weights

    load_keras_weights(trained_part(model), weights)
    return model


class Evaluator:
    """How weights do on the server's own examples, by the program that the devices run."""

    def __init__(
        self,
        bundle: TrainableBundle,
        source: DataSource,
        *,
        extractor: ReadFile | None = None,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._data = load_examples(
            source,
            bundle.spec,
            validation_fraction=0.0,
            seed=0,
            extractor=extractor,
            cache=cache,
            progress=progress,
        ).trained
        self._trainer = LiteRTTrainer(bundle)

    def __call__(self, weights: Weights) -> EvaluationSums:
        """Evaluate float32 weights."""
        self._trainer.set_weights(weights)
        return self._trainer.evaluate(batches(self._data, every_example(self._data), self._trainer.spec))


def every_example(data: LocalData) -> npt.NDArray[np.int64]:
    """Positions of all examples that could be read, whatever their split."""
    return np.sort(np.concatenate([data.train_index, data.validation_index, data.test_index]))
