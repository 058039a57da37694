"""A device's own examples, ready to train on: loaded, coded as the model's classes, split.

Pictures are uint8 in a mapped file, so that a thousand of them cost a device a few pages of memory,
and become float32 one batch at a time. Nothing in here leaves the device but the `DataSummary`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput, TableInput
from edge_client.data.arrays import open_npz
from edge_client.data.cache import decode, decode_through_cache
from edge_client.data.catalogue import Catalogue, PictureSource, Progress, recode
from edge_client.data.errors import DataError
from edge_client.data.files import open_folder, open_list
from edge_client.data.source import DataSource
from edge_client.data.splitting import Index, Split, split_examples
from edge_client.data.table import Table, read_table
from edge_client.wire.summary import DataSummary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalData:
    """Examples and their split.

    Attributes:
        inputs: uint8 [N, height, width, channels], mapped from the cache where there is one, or raw
            column values float64 [N, columns]; `batches` makes float32 of them.
        labels: int32 [N], indices into `classes`.
        classes: of the model.
        train_index, validation_index, test_index: positions in `inputs`; test is empty unless the
            source has a test split of its own.
        skipped: pictures that could not be read; no index points at them.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    train_index: Index
    validation_index: Index
    test_index: Index
    skipped: int

    def counts(self, index: Index) -> dict[str, int]:
        """Examples by class among those at `index`, classes without any included."""
        counted = np.bincount(self.labels[index], minlength=len(self.classes))
        return dict(zip(self.classes, counted.tolist(), strict=True))


def load_data(
    source: DataSource,
    input: ImageInput | TableInput,
    classes: Sequence[str],
    *,
    validation_fraction: float,
    seed: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> LocalData:
    """Load a source for a model.

    Args:
        source: what to load.
        input: how the model takes an example.
        classes: the model's; a device need not have examples of each.
        validation_fraction: share of each class held out, where the source has no split of its own.
        seed: of that draw.
        cache: folder for decoded pictures; None keeps them in memory.
        progress: called with the numbers of pictures done and in all.

    Raises:
        DataError: the source cannot be used with this model; one line that says why.
    """
    if isinstance(input, TableInput):
        return _load_table(source, input, classes, validation_fraction, seed)
    pictures = open_pictures(source)
    labels = recode(pictures.catalogue, classes, pictures.place)
    if cache is None:
        decoded = decode(pictures, input, progress)
    else:
        decoded = decode_through_cache(pictures, input, cache, progress)
    skipped = _warn_of_skipped(pictures, decoded.kept)
    split = _split(pictures, decoded.kept, validation_fraction, seed)
    return LocalData(
        decoded.pixels, labels, tuple(classes), split.train, split.validation, split.test, skipped
    )


def summarise(
    source: DataSource, *, validation_fraction: float, seed: int, progress: Progress | None = None
) -> DataSummary:
    """Count examples, as `load_data` with the same fraction and seed will find them.

    Every picture file is decoded at its smallest scale, since a file cut short shows only at its end.

    Raises:
        DataError: the source cannot be used; one line that says why.
    """
    if source.kind == "table":
        table = read_table(source.path, source.label_column)
        kept = np.ones(len(table.rows), np.bool_)
        split = split_examples(
            table.catalogue, kept, table.where, validation_fraction=validation_fraction, seed=seed
        )
        return _summary("table", table.catalogue, split, table.columns, 0)
    pictures = open_pictures(source)
    kept = pictures.readable(progress)
    split = _split(pictures, kept, validation_fraction, seed)
    return _summary("image", pictures.catalogue, split, (), int((~kept).sum()))


def class_names(source: DataSource) -> tuple[str, ...]:
    """The labels a source names, in order; for two classes the second is the positive one."""
    if source.kind == "table":
        return read_table(source.path, source.label_column).catalogue.classes
    return open_pictures(source).catalogue.classes


def open_pictures(source: DataSource) -> PictureSource:
    """List the examples of a source of pictures without reading them."""
    if source.kind == "folder":
        return open_folder(source.path)
    if source.kind == "csv":
        return open_list(source.path, source.label_column, source.pictures)
    if source.kind == "npz":
        return open_npz(source.path)
    raise DataError(f"{source} is a table, and the model takes pictures")


def open_table(source: DataSource, columns: Sequence[str] | None = None) -> Table:
    """Read a source that is a table, all columns or those named."""
    if source.kind != "table":
        raise DataError(f"{source} holds pictures, and the model takes a table; use table:PATH")
    return read_table(source.path, source.label_column, columns)


def _load_table(
    source: DataSource, input: TableInput, classes: Sequence[str], fraction: float, seed: int
) -> LocalData:
    table = open_table(source, input.columns)
    labels = recode(table.catalogue, classes, table.place)
    kept = np.ones(len(table.rows), np.bool_)
    split = split_examples(table.catalogue, kept, table.where, validation_fraction=fraction, seed=seed)
    return LocalData(table.rows, labels, tuple(classes), split.train, split.validation, split.test, 0)


def _warn_of_skipped(pictures: PictureSource, kept: npt.NDArray[np.bool_]) -> int:
    skipped = np.flatnonzero(~kept)
    if len(skipped):
        log.warning(
            "%s: skipped %d of %d pictures that cannot be read, the first is %s",
            pictures.where,
            len(skipped),
            len(kept),
            pictures.place(int(skipped[0])),
        )
    return len(skipped)


def _split(pictures: PictureSource, kept: npt.NDArray[np.bool_], fraction: float, seed: int) -> Split:
    return split_examples(pictures.catalogue, kept, pictures.where, validation_fraction=fraction, seed=seed)


def _summary(
    kind: Any, catalogue: Catalogue, split: Split, columns: tuple[str, ...], skipped: int
) -> DataSummary:
    counts = np.bincount(catalogue.codes[split.train], minlength=len(catalogue.classes))
    return DataSummary(
        kind=kind,
        counts=dict(zip(catalogue.classes, counts.tolist(), strict=True)),
        validation_examples=len(split.validation),
        columns=columns,
        skipped=skipped,
    )
