"""Keras model in, training bundle out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import (
    Augmentation,
    ImageInput,
    Loss,
    ModelSpec,
    Optimizer,
    TableInput,
    TrainableBundle,
)
from compression.trainable.convert import convert
from compression.trainable.errors import TrainableError
from compression.trainable.losses import check_loss
from compression.trainable.network import Network
from compression.trainable.program import Program
from compression.trainable.variables import keras_weights


@dataclass(frozen=True, slots=True)
class CompileResult:
    """A bundle, which carries no weights, and the weights the Keras model began with, in spec order."""

    bundle: TrainableBundle
    weights: dict[str, npt.NDArray[np.float32]]


def compile_trainable(
    model: Any,
    *,
    name: str,
    input: ImageInput | TableInput,
    classes: Sequence[str],
    loss: Loss = "binary_crossentropy",
    optimizer: Optimizer = "adam",
    batch_size: int = 16,
    augmentation: Augmentation | None = None,
    label_smoothing: float = 0.0,
    micro_batch: int | None = None,
) -> CompileResult:
    """Compile a `tf_keras` model into a program that trains it in a TFLite runtime.

    The model may end in logits, a sigmoid or a softmax; the losses are computed from the logits. Layers
    with ``trainable=False`` are frozen: their weights become constants of the program and do not travel.

    Args:
        micro_batch: examples in memory at a time; the gradient of a batch is added up from so many. Takes
            less memory and gives the same step, but for batch normalisation, which sees smaller batches.

    Raises:
        TrainableError: a layer is not supported, or input, loss and classes do not fit the model.
    """
    network = Network(model)
    if tuple(model.input_shape[1:]) != input.shape:
        raise TrainableError(f"model {name!r} takes {model.input_shape[1:]}, the input gives {input.shape}")
    if not 0.0 <= label_smoothing < 1.0:
        raise TrainableError(f"label_smoothing must be from 0 to less than 1, got {label_smoothing}")
    check_loss(loss, network.outputs, len(classes))
    spec = ModelSpec(
        name=name,
        input=input,
        classes=tuple(classes),
        tensors=tuple(item.spec for item in network.variables),
        batch_size=batch_size,
        loss=loss,
        optimizer=optimizer,
        augmentation=augmentation or Augmentation(),
    )
    if micro_batch is not None and (micro_batch < 1 or batch_size % micro_batch):
        raise TrainableError(f"micro_batch {micro_batch} does not divide batch_size {batch_size}")
    program = Program(
        network,
        loss=loss,
        optimizer=optimizer,
        batch_size=micro_batch or batch_size,
        label_smoothing=label_smoothing,
        accumulates=micro_batch is not None,
    )
    bundle = TrainableBundle(spec, convert(program, program.signatures()))
    return CompileResult(bundle, keras_weights(model))
