"""Which examples train and which validate: stratified, and the same each time for the same seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_client.data.catalogue import TEST, TRAIN, UNSPLIT, VALIDATION, Catalogue
from edge_client.data.errors import DataError

MIN_EXAMPLES = 2
SMALLEST_SHARED_CLASS = 4  # below, a class gives none up for validation unless the fraction asks for it

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of the examples in each part, ascending; no example is in two."""

    train: Index
    validation: Index
    test: Index


def split_examples(
    catalogue: Catalogue, kept: npt.NDArray[np.bool_], where: str, *, validation_fraction: float, seed: int
) -> Split:
    """Split the examples that could be read.

    Given splits are kept as they are; where a source gives none for validation, `validation_fraction`
    of each class is drawn from its training examples. A class's draw depends on its name, its count
    and the seed alone, so neither the order of the classes nor a further class changes it.

    Raises:
        DataError: fewer than `MIN_EXAMPLES` training examples, or a fraction outside 0 to 0.9.
    """
    if not 0 <= validation_fraction <= 0.9:
        raise DataError(f"validation fraction {validation_fraction} must be from 0 to 0.9")
    splits = np.where(kept, catalogue.splits, -1)
    test = np.flatnonzero(splits == TEST)
    validation = np.flatnonzero(splits == VALIDATION)
    pool = np.flatnonzero((splits == TRAIN) | (splits == UNSPLIT))
    if len(pool) < MIN_EXAMPLES:
        raise DataError(
            f"{where}: too few examples: {len(pool)} can be used for training, "
            f"at least {MIN_EXAMPLES} are needed"
        )
    if len(validation) or validation_fraction == 0:
        return Split(pool, validation, test)
    held_out = _draw(catalogue, pool, validation_fraction, seed)
    return Split(np.setdiff1d(pool, held_out), held_out, test)


def _draw(catalogue: Catalogue, pool: Index, fraction: float, seed: int) -> Index:
    drawn = []
    largest = np.zeros(0, np.int64)
    for code, name in enumerate(catalogue.classes):
        members = pool[catalogue.codes[pool] == code]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        members = rng.permutation(members)
        largest = max(largest, members, key=len)
        drawn.append(members[: _share(len(members), fraction)])
    together = np.concatenate(drawn)
    if not len(together) and len(largest) > 1:  # a handful of examples: one of the commonest class
        together = largest[:1]
    return np.sort(together)


def _share(count: int, fraction: float) -> int:
    share = int(count * fraction + 0.5)
    if count >= SMALLEST_SHARED_CLASS:
        share = max(share, 1)
    return min(share, max(0, count - 1))
