"""One batch, as the trainer takes it, and the stream of them that an epoch is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput, ModelSpec
from edge_client.data.augmentation import augment_pictures
from edge_client.data.cache import release_pages
from edge_client.data.errors import DataError
from edge_client.data.local import LocalData
from edge_client.data.preprocessing import normalise

RELEASE_BYTES = 4 << 20  # of mapped pages touched between two calls to give them back
FAULT_BYTES = 64 << 10  # what Linux maps around one page touched


@dataclass(frozen=True, slots=True)
class Batch:
    """Exactly ``spec.batch_size`` examples; a last, smaller batch is padded.

    Attributes:
        inputs: float32 [B, *spec.input.shape], preprocessed.
        labels: int32 [B], indices into ``spec.classes``.
        weights: float32 [B], 0 for padding and 1 (or the class weight) for examples.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def batches(
    data: LocalData,
    index: npt.NDArray[np.integer],
    spec: ModelSpec,
    *,
    rng: np.random.Generator | None = None,
    augment: bool = False,
    class_weights: Sequence[float] | None = None,
) -> Iterator[Batch]:
    """The examples at `index`, once each.

    Padding repeats examples of the same batch with weight 0: it adds nothing to a loss, and does not
    pull batch normalisation's statistics towards zero as blank pictures would.

    Args:
        data: a device's examples.
        index: which of them, `data.train_index` for instance.
        spec: shape, scaling, batch size and augmentation.
        rng: order and augmentation are drawn from it; None keeps the order, for evaluation.
        augment: apply ``spec.augmentation``; needs `rng`. Table rows are never augmented.
        class_weights: one for each class, as `balanced_weights` makes them; default 1.

    Raises:
        DataError: data and spec do not fit each other.
    """
    if data.inputs.shape[1:] != spec.input.shape or data.classes != spec.classes:
        raise DataError(
            f"data of shape {data.inputs.shape[1:]} and {len(data.classes)} classes was loaded for another "
            f"model than {spec.name}, which takes {spec.input.shape} and {len(spec.classes)}"
        )
    if augment and rng is None:
        raise DataError("augmentation needs a random generator")
    by_class = np.ones(len(spec.classes)) if class_weights is None else np.asarray(class_weights)
    order = np.asarray(index) if rng is None else rng.permutation(index)
    return _batches(data, order, spec, by_class, rng if augment else None)


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Class weights that let each class present count the same; they average 1 over the examples.

    A class without examples gets 1.
    """
    present = sum(1 for count in counts if count)
    return tuple(sum(counts) / (present * count) if count else 1.0 for count in counts)


def _batches(
    data: LocalData,
    order: npt.NDArray[np.integer],
    spec: ModelSpec,
    by_class: npt.NDArray[np.float64],
    augmenting: np.random.Generator | None,
) -> Iterator[Batch]:
    touched = 0
    for start in range(0, len(order), spec.batch_size):
        chosen = order[start : start + spec.batch_size]
        rows = np.resize(chosen, spec.batch_size)
        inputs, labels = data.inputs[rows], data.labels[rows]
        touched += max(inputs.nbytes, len(rows) * FAULT_BYTES)
        if touched > RELEASE_BYTES:
            release_pages(data.inputs)
            touched = 0
        if augmenting is not None and isinstance(spec.input, ImageInput):
            inputs = augment_pictures(inputs, spec.augmentation, augmenting)
        weights = by_class[labels].astype(np.float32)
        weights[len(chosen) :] = 0
        yield Batch(normalise(inputs, spec.input), labels, weights)
    release_pages(data.inputs)
