"""One client's training in one round: the same function on a device and in a simulated fleet."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from compression.spec import Weights
from edge_client.data import Batch, LocalData, balanced_weights, batches
from edge_client.training.trainer import Trainer, TrainSums
from edge_client.wire.rounds import TrainingPlan

Watch = Callable[[Iterator[Batch]], Iterator[Batch]]


def client_rng(plan: TrainingPlan, round_number: int, client: str) -> np.random.Generator:
    """Of a client's examples' order, augmentation and dropout in one round."""
    return np.random.default_rng([plan.seed, round_number, zlib.crc32(client.encode())])


def train_locally(
    trainer: Trainer,
    data: LocalData,
    plan: TrainingPlan,
    rng: np.random.Generator,
    *,
    correction: Weights | None = None,
    watch: Watch = iter,
) -> TrainSums:
    """Train a trainer that holds the round's weights for all epochs, with a fresh optimiser.

    Args:
        rng: of the examples' order, augmentation and dropout.
        correction: SCAFFOLD's, added to every gradient.
        watch: what each epoch's batches pass through, to look whether to go on.
    """
    trainer.reset_optimizer()
    if correction is not None:
        trainer.set_correction(correction)
    class_weights = balanced_weights(tuple(data.counts(data.train_index).values())) if plan.balance else None
    sums = TrainSums()
    for _ in range(plan.epochs):
        epoch = batches(
            data, data.train_index, trainer.spec, rng=rng, augment=plan.augment, class_weights=class_weights
        )
        sums += trainer.train(
            watch(epoch), learning_rate=plan.learning_rate, proximal_mu=plan.proximal_mu, rng=rng
        )
    return sums
