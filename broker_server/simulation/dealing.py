"""Writing shares of a data set to the folders of the clients and of the server.

Picture files are linked, not copied; arrays and rows pass through in one stream, so that memory does
not grow with the data set. What a client gets is an ordinary source: nothing in it says that it is a
part of something.
"""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from broker_server.simulation.errors import SimulationError
from edge_client.data import DataSource
from edge_client.data.arrays import PictureArrays, blocks
from edge_client.data.cache import replacing, write_header
from edge_client.data.catalogue import LABEL_COLUMNS
from edge_client.data.files import PictureFiles
from edge_client.data.table import Table

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, how much in all
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """Which examples go where.

    Attributes:
        name: of the client, or of the server's set.
        folder: where its data lies; made, or made anew.
        index: positions of its examples in the data set.
        linked: lay picture files out as a folder by class; else only list them.
    """

    name: str
    folder: Path
    index: Index
    linked: bool


def deal_files(files: PictureFiles, shares: Sequence[Share], progress: Progress) -> list[DataSource]:
    """Link or list picture files."""
    sources = []
    for done, share in enumerate(shares):
        progress("dealing pictures", done, len(shares))
        _fresh(share.folder)
        sources.append(_link(files, share) if share.linked else _list(files, share))
    progress("dealing pictures", len(shares), len(shares))
    return sources


def deal_rows(table: Table, shares: Sequence[Share], progress: Progress) -> list[DataSource]:
    """Write table rows as CSV; `repr` keeps every bit of a number."""
    taken = {name.lower() for name in table.columns}
    label_column = next(name for name in (*LABEL_COLUMNS, "bramble_label") if name not in taken)
    sources = []
    for done, share in enumerate(shares):
        progress("dealing rows", done, len(shares))
        _fresh(share.folder)
        file = share.folder / "rows.csv"
        with replacing(file) as stream, _text(stream) as text:
            writer = csv.writer(text)
            writer.writerow([*table.columns, label_column])
            for index in share.index.tolist():
                writer.writerow([*map(repr, table.rows[index].tolist()), _label(table, index)])
        found_by_itself = not taken.intersection(LABEL_COLUMNS)
        sources.append(DataSource("table", file, None if found_by_itself else label_column))
    progress("dealing rows", len(shares), len(shares))
    return sources


def deal_arrays(arrays: PictureArrays, shares: Sequence[Share], progress: Progress) -> list[DataSource]:
    """Write picture arrays as npz files, all in one pass over the original."""
    kinds = {(entry.shape[1:], entry.dtype) for entry in arrays.entries}
    if len(kinds) > 1:
        raise SimulationError(f"{arrays.where}: its splits hold pictures of different shapes or types")
    shape, dtype = kinds.pop()
    total = len(arrays.catalogue.codes)
    members = [np.isin(np.arange(total), share.index) for share in shares]
    sources = []
    with ExitStack() as stack:
        writers = []
        for share in shares:
            _fresh(share.folder)
            file = share.folder / "pictures.npz"
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(replacing(file)), "w"))
            writers.append(_ArrayWriter(archive, (len(share.index), *shape), dtype))
            stack.enter_context(closing(writers[-1]))
            sources.append(DataSource("npz", file))
        done = 0
        for entry in arrays.entries:
            for block in blocks(entry):
                for writer, member in zip(writers, members, strict=True):
                    writer.write(block[member[done : done + len(block)]])
                done += len(block)
                progress("dealing pictures", done, total)
        names = np.array(arrays.catalogue.classes)
        for writer, member in zip(writers, members, strict=True):
            writer.finish(labels=arrays.catalogue.codes[member], classes=names)
    return sources


class _ArrayWriter:
    """An npz file whose first array, ``images``, is written piece by piece."""

    def __init__(self, archive: zipfile.ZipFile, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._archive = archive
        self._stream = archive.open("images.npy", "w", force_zip64=True)
        write_header(self._stream, shape, dtype)

    def write(self, rows: npt.NDArray[Any]) -> None:
        self._stream.write(rows.tobytes())

    def finish(self, **arrays: npt.NDArray[Any]) -> None:
        self._stream.close()
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            self._archive.writestr(f"{name}.npy", buffer.getvalue())

    def close(self) -> None:
        self._stream.close()


def _link(files: PictureFiles, share: Share) -> DataSource:
    for label in files.catalogue.classes:  # a class without pictures here is still a class
        (share.folder / label).mkdir()
    for index in share.index.tolist():
        target = Path(files.paths[index]).absolute()
        link = share.folder / _label(files, index) / f"{index:06d}-{target.name}"
        try:
            link.symlink_to(target)
        except OSError:  # a file system without links
            shutil.copyfile(target, link)
    return DataSource("folder", share.folder)


def _list(files: PictureFiles, share: Share) -> DataSource:
    file = share.folder / "labels.csv"
    with replacing(file) as stream, _text(stream) as text:
        writer = csv.writer(text)
        writer.writerow(["path", "label"])
        for index in share.index.tolist():
            writer.writerow([Path(files.paths[index]).absolute(), _label(files, index)])
    return DataSource("csv", file)


def _label(source: PictureFiles | Table, index: int) -> str:
    return source.catalogue.classes[int(source.catalogue.codes[index])]


def _fresh(folder: Path) -> None:
    """An empty folder; what an earlier run dealt there goes (links go, their targets stay)."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


@contextmanager
def _text(stream: IO[bytes]) -> Iterator[io.TextIOWrapper]:
    """Text onto a byte stream, which stays open."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        yield text
    finally:
        text.detach()
