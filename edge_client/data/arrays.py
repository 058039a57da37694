"""Pictures as arrays in an npz file: MedMNIST's names, or plain ``images``/``labels`` or ``x``/``y``.

The arrays are read in blocks of rows straight from the zip entry, so a file of hundreds of megabytes
passes through a few of memory. Nothing is unpickled: an array of objects is refused. An array
``classes`` of text names the labels 0, 1, ...; without it their names are "0", "1", ...

`open_entry` and `blocks` are public because the demonstration deals one file out to many devices.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput
from edge_client.data.catalogue import (
    MAX_CLASSES,
    MAX_LABEL_CHARACTERS,
    TEST,
    TRAIN,
    UNSPLIT,
    VALIDATION,
    Catalogue,
    Pixels,
    Progress,
)
from edge_client.data.errors import DataError
from edge_client.data.pictures import MAX_PIXELS, eight_bits_within, to_pixels

BLOCK_BYTES = 1 << 20
MAX_EXAMPLES = 10_000_000
SPLIT_ENTRIES = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
PLAIN_ENTRIES = (("images", "labels"), ("x", "y"))
NPZ_ERRORS: tuple[type[Exception], ...] = (  # what zipfile and NumPy raise for bytes gone wrong
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of an npz file, before its rows are read."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]


@dataclass(frozen=True, slots=True)
class PictureArrays:
    """A `PictureSource` of arrays, one after the other."""

    where: str
    catalogue: Catalogue
    entries: tuple[Entry, ...]

    def fingerprint(self) -> str:
        """SHA-256 over the file's path, size and time of modification."""
        file = self.entries[0].file
        status = file.stat()
        return sha256(f"{file}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()

    def place(self, index: int) -> str:
        """File, array and row."""
        for entry in self.entries:
            if index < entry.rows:
                return f"{self.where}, {entry.name}[{index}]"
            index -= entry.rows
        raise IndexError(index)

    def readable(self, progress: Progress | None = None) -> npt.NDArray[np.bool_]:
        """All: an array that cannot be read fails as a whole."""
        rows = len(self.catalogue.codes)
        if progress:
            progress(rows, rows)
        return np.ones(rows, np.bool_)

    def pictures(self, input: ImageInput) -> Iterator[Pixels | None]:
        """Read block by block, resizing where the size differs."""
        for entry in self.entries:
            low, high = _extremes(entry)
            for block in blocks(entry):
                for values in _channels_last(block):
                    picture = eight_bits_within(values, low, high)
                    yield picture if picture.shape == input.shape else to_pixels(picture, input)


def open_npz(file: Path) -> PictureArrays:
    """Find the picture and label arrays.

    Raises:
        DataError: not an npz file, or without arrays of pictures and labels that fit each other.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
        pairs = [
            (split, f"{prefix}_images", f"{prefix}_labels")
            for split, prefix in SPLIT_ENTRIES.items()
            if f"{prefix}_images" in names
        ] or [(UNSPLIT, images, labels) for images, labels in PLAIN_ENTRIES if images in names][:1]
        if not pairs:
            raise DataError(
                f"no train_images, images or x among its arrays {', '.join(sorted(names))[:200]!r}"
            )
        entries = tuple(open_entry(file, images) for _, images, _ in pairs)
        codes = [
            _labels(file, labels, entry.rows) for (_, _, labels), entry in zip(pairs, entries, strict=True)
        ]
        splits = [np.full(entry.rows, split) for (split, _, _), entry in zip(pairs, entries, strict=True)]
        for entry in entries:
            _require_pictures(entry)
        catalogue = _catalogue(np.concatenate(codes), np.concatenate(splits), _class_names(file, names))
    except NPZ_ERRORS as exc:
        raise DataError(f"{file}: cannot be read as an npz of pictures: {_line(exc)}") from exc
    return PictureArrays(str(file), catalogue, entries)


def open_entry(file: Path, name: str) -> Entry:
    """Read the header of one array."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as stream:
        shape, dtype = _header(stream, name)
    return Entry(file, name, shape, dtype)


def blocks(entry: Entry) -> Iterator[npt.NDArray[Any]]:
    """The array's rows in order, about `BLOCK_BYTES` at a time; raise `DataError` if they end early."""
    row_bytes = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    with zipfile.ZipFile(entry.file) as archive, archive.open(f"{entry.name}.npy") as stream:
        _header(stream, entry.name)
        for start in range(0, entry.rows, step):
            rows = min(step, entry.rows - start)
            try:
                data = stream.read(rows * row_bytes)
            except NPZ_ERRORS as exc:
                raise DataError(f"{entry.file}, {entry.name}: {_line(exc)}") from exc
            if len(data) != rows * row_bytes:
                raise DataError(f"{entry.file}, {entry.name}: ends after {start} of {entry.rows} rows")
            yield np.frombuffer(data, entry.dtype).reshape(rows, *entry.shape[1:])


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise DataError(f"{name} has .npy format {version}, expected 1.0 or 2.0")
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise DataError(f"{name} holds {dtype}, expected numbers or text")
    if fortran_order and len(shape) > 1:
        raise DataError(f"{name} is stored column by column: save numpy.ascontiguousarray of it")
    if not shape or not 0 <= shape[0] <= MAX_EXAMPLES or min(shape) < 0:
        raise DataError(f"{name} has shape {shape}, expected 1 to {MAX_EXAMPLES} rows")
    return shape, dtype


def _require_pictures(entry: Entry) -> None:
    shape = entry.shape
    if len(shape) == 2:
        raise DataError(f"{entry.name} is a table of shape {shape}: save it as CSV and use table:PATH")
    fits = len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3, 4) or _channels_first(shape)))
    if not fits or entry.dtype.kind not in "biuf":
        raise DataError(
            f"{entry.name} has shape {shape} of {entry.dtype}, expected pictures [N, H, W, channels]"
        )
    if not 1 <= math.prod(shape[1:]) <= MAX_PIXELS:
        raise DataError(f"{entry.name} has pictures of shape {shape[1:]}, expected 1 to {MAX_PIXELS} pixels")


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[1] in (1, 3) and shape[3] not in (1, 3)


def _channels_last(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.ndim == 3:
        return block[..., None]
    return block.transpose(0, 2, 3, 1) if _channels_first(block.shape) else block


def _extremes(entry: Entry) -> tuple[float, float]:
    """Smallest and largest value, which say how deep the pixels are; known beforehand for 8 bits."""
    if entry.dtype.kind == "b":
        return 0.0, 1.0
    if entry.dtype == np.uint8:
        return 0.0, 255.0
    lows, highs = zip(*((float(b.min()), float(b.max())) for b in blocks(entry)), strict=True)
    return min(lows), max(highs)


def _labels(file: Path, name: str, rows: int) -> npt.NDArray[Any]:
    entry = open_entry(file, name)
    if entry.shape not in ((rows,), (rows, 1)):
        raise DataError(f"{name} has shape {entry.shape}, expected one label for each of {rows} pictures")
    if entry.dtype.kind == "f":
        raise DataError(f"{name} holds {entry.dtype}, expected whole numbers or text")
    return np.concatenate([block.reshape(-1) for block in blocks(entry)] or [np.zeros(0, entry.dtype)])


def _class_names(file: Path, names: set[str]) -> tuple[str, ...]:
    if "classes" not in names:
        return ()
    entry = open_entry(file, "classes")
    if entry.dtype.kind != "U" or len(entry.shape) != 1 or not 1 <= entry.rows <= MAX_CLASSES:
        raise DataError(f"classes has shape {entry.shape} of {entry.dtype}, expected a list of names")
    if entry.dtype.itemsize > 4 * MAX_LABEL_CHARACTERS:
        raise DataError(f"classes holds names of more than {MAX_LABEL_CHARACTERS} characters")
    return tuple(np.concatenate(list(blocks(entry))).tolist())


def _catalogue(
    values: npt.NDArray[Any], splits: npt.NDArray[np.integer], class_names: tuple[str, ...]
) -> Catalogue:
    unique, inverse = np.unique(values, return_inverse=True)
    names = [_name(value, class_names) for value in unique.tolist()]
    small = Catalogue.of(names, [UNSPLIT] * len(names), class_names)
    return Catalogue(small.classes, small.codes[inverse], splits.astype(np.int8))


def _name(value: Any, class_names: tuple[str, ...]) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | int) and class_names:
        if not 0 <= int(value) < len(class_names):
            raise DataError(f"label {int(value)} is outside the {len(class_names)} classes it names")
        return class_names[int(value)]
    return str(int(value)) if isinstance(value, bool) else str(value)


def _line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
