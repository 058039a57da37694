"""What each example of a data set is for: dealt out to the clients, or kept by the server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from broker_server.simulation.dealing import Index
from broker_server.simulation.errors import SimulationError
from edge_client.data.arrays import PictureArrays
from edge_client.data.catalogue import TEST, TRAIN, UNSPLIT, VALIDATION, Catalogue
from edge_client.data.files import PictureFiles
from edge_client.data.table import Table

HELD_OUT = 0.2  # of each class, where the data set has no test split of its own
CALIBRATION_SHARE = 1 / 16  # of the training pool
MAX_CALIBRATION = 128
MIN_POOL_FOR_CALIBRATION = 64  # below, no example can be spared
Source = PictureFiles | PictureArrays | Table


@dataclass(frozen=True, slots=True)
class Roles:
    """Positions of the examples by what they are for.

    Attributes:
        pool: to be dealt out to the clients.
        test: kept by the server, which evaluates on it.
        calibration: kept by the server for full-integer quantisation; may be empty.
        further: a given test split where `test` is the given validation split; may be empty.
        description: which is which, in words.
    """

    pool: Index
    test: Index
    calibration: Index
    further: Index
    description: str


def assign_roles(source: Source, rng: np.random.Generator) -> Roles:
    """Keep the data set's own splits where it has them, else draw.

    Raises:
        SimulationError: one class only, or too few examples.
    """
    catalogue = source.catalogue
    given = {split: np.flatnonzero(catalogue.splits == split) for split in (VALIDATION, TEST)}
    validation, test = given[VALIDATION], given[TEST]
    pool = np.flatnonzero(np.isin(catalogue.splits, (TRAIN, UNSPLIT)))
    calibration = further = np.zeros(0, np.int64)
    if len(validation) and len(test) and isinstance(source, PictureArrays):
        test, further = validation, test
        told = "its validation split evaluates, its test split is left alone"
    elif len(validation) and len(test):
        calibration = _sample(catalogue, validation, min(1.0, MAX_CALIBRATION / len(validation)), rng)
        told = "its test split evaluates, its validation split calibrates"
    elif len(validation) or len(test):
        told = f"its {'validation' if len(validation) else 'test'} split evaluates"
        test = validation if len(validation) else test
    else:
        test = _sample(catalogue, pool, HELD_OUT, rng)
        told = f"a stratified {HELD_OUT:.0%} held out before the deal evaluates"
        pool = np.setdiff1d(pool, test)
    if not len(calibration) and len(pool) >= MIN_POOL_FOR_CALIBRATION:
        share = min(CALIBRATION_SHARE, MAX_CALIBRATION / len(pool))
        calibration = _sample(catalogue, pool, share, rng)
        pool = np.setdiff1d(pool, calibration)
    require_two_classes(source, pool)
    if len(test) < 2 or len(pool) < 2:
        raise SimulationError(
            f"{source.where}: too few examples, {len(catalogue.codes)}, to train and to test"
        )
    told += f" ({len(test)} examples); {len(calibration) or 'none'} kept for calibration"
    return Roles(pool, test, calibration, further, told)


def _sample(catalogue: Catalogue, pool: Index, fraction: float, rng: np.random.Generator) -> Index:
    """A stratified share, at least one of each class that has two or more."""
    drawn = [np.zeros(0, np.int64)]
    for code in range(len(catalogue.classes)):
        members = rng.permutation(pool[catalogue.codes[pool] == code])
        share = int(len(members) * fraction + 0.5)
        drawn.append(members[: max(share, 1) if len(members) > 1 else share])
    return np.sort(np.concatenate(drawn))


def count_classes(catalogue: Catalogue, index: Index) -> dict[str, int]:
    """Examples by class, classes without any included."""
    counted = np.bincount(catalogue.codes[index], minlength=len(catalogue.classes))
    return dict(zip(catalogue.classes, counted.tolist(), strict=True))


def require_two_classes(source: Source, pool: Index) -> None:
    """Raise `SimulationError` for a training pool in which there is nothing to tell apart."""
    present = np.unique(source.catalogue.codes[pool])
    if len(present) < 2:
        name = source.catalogue.classes[int(present[0])] if len(present) else ""
        raise SimulationError(
            f"{source.where} has examples of one class only, {name!r}; at least 2 are needed"
        )
