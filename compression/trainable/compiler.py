"""Keras model in, training bundle out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compression.spec import (
    Augmentation,
    Input,
    Loss,
    ModelSpec,
    Optimizer,
    TrainableBundle,
)
from compression.trainable.constraints import Constraint
from compression.trainable.convert import convert
from compression.trainable.errors import TrainableError
from compression.trainable.losses import check_loss
from compression.trainable.lowerings import choosing
from compression.trainable.network import Network
from compression.trainable.plan import auto_rows, plan_memory, worth_splitting
from compression.trainable.program import Program
from compression.trainable.rules import Chooser, Rule
from compression.trainable.tuning import TunedTable, default_chooser
from compression.trainable.variables import keras_weights


@dataclass(frozen=True, slots=True)
class CompileResult:
    """A bundle, which carries no weights, and the weights the Keras model began with, in spec order.

    Attributes:
        lowerings: what chose each convolution's lowering, in words.
    """

    bundle: TrainableBundle
    weights: dict[str, npt.NDArray[np.float32]]
    lowerings: str


def compile_trainable(
    model: Any,
    *,
    name: str,
    input: Input,
    classes: Sequence[str],
    loss: Loss = "binary_crossentropy",
    optimizer: Optimizer = "adam",
    batch_size: int = 16,
    augmentation: Augmentation | None = None,
    label_smoothing: float = 0.0,
    micro_batch: int | Literal["auto"] | None = None,
    lowerings: Chooser | None = None,
    constraint: Constraint | None = None,
) -> CompileResult:
    """Compile a `tf_keras` model into a program that trains it in a TFLite runtime.

    The model may end in logits, a sigmoid or a softmax; the losses are computed from the logits. Layers
    with ``trainable=False`` are frozen: their weights become constants of the program and do not travel.

    Args:
        micro_batch: examples in memory at a time; the gradient of a batch is added up from so many. Takes
            less memory and gives the same step, so a model with batch normalisation, whose statistics are
            the whole batch's, is refused. "auto" takes four where that saves memory worth the name.
        lowerings: which lowering each convolution takes; a `compression.trainable.tuning.TunedTable` holds
            what was measured, `compression.trainable.rules.RULES` what is known of a runtime. None takes the
            table that `tune` left in the cache for this interpreter's runtime, and that runtime's rule where
            there is none: the same machine gives the same program.
        constraint: keep a pruned model's zeros, round as int8 will; None for neither.

    Raises:
        TrainableError: a layer is not supported, or input, loss and classes do not fit the model.
    """
    chooser = lowerings or default_chooser()
    network = Network(model, constraint)
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
    if isinstance(micro_batch, int):
        _check_micro_batch(network, micro_batch, batch_size)

    def bundle_of(rows: int) -> TrainableBundle:
        program = Program(
            network,
            loss=loss,
            optimizer=optimizer,
            batch_size=rows,
            label_smoothing=label_smoothing,
            accumulates=rows < batch_size,
        )
        with choosing(chooser):
            signatures = program.signatures()
        return TrainableBundle(spec, convert(program, signatures))

    bundle = bundle_of(micro_batch if isinstance(micro_batch, int) else batch_size)
    if micro_batch == "auto" and network.batch_statistics is None:
        split = bundle_of(auto_rows(batch_size))
        bundle = split if worth_splitting(plan_memory(bundle), plan_memory(split)) else bundle
    words = str(chooser) if isinstance(chooser, (TunedTable, Rule)) else "by the caller"
    return CompileResult(bundle, keras_weights(model), words)


def _check_micro_batch(network: Network, micro_batch: int, batch_size: int) -> None:
    if micro_batch < 1 or batch_size % micro_batch:
        raise TrainableError(f"micro_batch {micro_batch} does not divide batch_size {batch_size}")
    if micro_batch < batch_size and network.batch_statistics is not None:
        raise TrainableError(
            f"micro_batch {micro_batch}: layer {network.batch_statistics!r} is batch normalisation, whose "
            "statistics are the whole batch's: leave micro_batch out, take a smaller batch_size, freeze the "
            "layer or use LayerNormalization"
        )
