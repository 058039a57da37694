"""What every kind of source looks like from the inside: labels, given splits, a stream of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput
from edge_client.data.errors import DataError

Progress = Callable[[int, int], None]  # examples done, examples in all
Pixels = npt.NDArray[np.uint8]

UNSPLIT, TRAIN, VALIDATION, TEST = range(4)
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
LABEL_COLUMNS = ("label", "diagnosis", "target", "class")
MAX_CLASSES = 4096
MAX_LABEL_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The examples of a source before any of them is read.

    Attributes:
        classes: the label names the source declares, in order; some may have no example.
        codes: int32 [N], indices into `classes`.
        splits: int8 [N], `UNSPLIT`, or `TRAIN`, `VALIDATION` or `TEST` where the source says so.
    """

    classes: tuple[str, ...]
    codes: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]

    @classmethod
    def of(cls, labels: Sequence[str], splits: Sequence[int], declared: Iterable[str] = ()) -> Catalogue:
        """Order the class names and turn labels into indices."""
        classes = order_classes({*declared, *labels})
        index = {name: code for code, name in enumerate(classes)}
        codes = np.fromiter((index[label] for label in labels), np.int32, len(labels))
        return cls(classes, codes, np.asarray(splits, np.int8))


class PictureSource(Protocol):
    """A source of pictures: files in folders, files in a list, or arrays."""

    @property
    def where(self) -> str:
        """The source's path, for messages."""

    @property
    def catalogue(self) -> Catalogue:
        """Labels and splits."""

    def fingerprint(self) -> str:
        """Changes when the content may have changed: names, sizes and modification times."""

    def place(self, index: int) -> str:
        """Where one example lies, for messages."""

    def readable(self, progress: Progress | None = None) -> npt.NDArray[np.bool_]:
        """Which pictures can be read, without making arrays of them."""

    def pictures(self, input: ImageInput) -> Iterator[Pixels | None]:
        """The pictures in order, [height, width, channels]; None for one that cannot be read."""


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Label names in ascending order, by value when all are whole numbers ("2" before "10").

    Raises:
        DataError: an empty or over-long name, or too many of them.
    """
    unique = set(names)
    for name in unique:
        if not 1 <= len(name) <= MAX_LABEL_CHARACTERS:
            raise DataError(f"label {name[:40]!r} must have 1 to {MAX_LABEL_CHARACTERS} characters")
    if len(unique) > MAX_CLASSES:
        raise DataError(f"{len(unique)} different labels exceed {MAX_CLASSES}: is this the label column?")
    if all(name.isascii() and name.isdigit() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def recode(
    catalogue: Catalogue, classes: Sequence[str], place: Callable[[int], str]
) -> npt.NDArray[np.int32]:
    """Labels as indices into the model's classes.

    Raises:
        DataError: a label that is not one of them; the message names its place.
    """
    table = np.array([_position(name, classes) for name in catalogue.classes], np.int32)
    codes = table[catalogue.codes] if len(catalogue.codes) else catalogue.codes
    strange = np.flatnonzero(codes < 0)
    if len(strange):
        label = catalogue.classes[catalogue.codes[strange[0]]]
        raise DataError(
            f"{place(int(strange[0]))}: label {label!r} is not one of the classes {', '.join(classes)}"
        )
    return codes


def _position(name: str, classes: Sequence[str]) -> int:
    return classes.index(name) if name in classes else -1
