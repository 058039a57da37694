"""Pictures as files: folders named after the classes, or a list of paths and labels.

A folder is read in either layout::

    scans/yes/*.jpg                   hospital_1/train/yes/*.jpg
    scans/no/*.png                    hospital_1/val/..., hospital_1/test/...

What is no picture (notes, spreadsheets, hidden files) is passed over; what claims to be one, by its
name or by its first bytes, and cannot be decoded is skipped later, and counted.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput
from edge_client.data.catalogue import (
    LABEL_COLUMNS,
    SPLITS,
    UNSPLIT,
    Catalogue,
    Pixels,
    Progress,
)
from edge_client.data.errors import DataError
from edge_client.data.pictures import is_readable, looks_like_picture, to_pixels

SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".pgm",
        ".ppm",
        ".pnm",
    )
)
PATH_COLUMNS = ("path", "file", "filename", "image", "image_path", "picture")


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """A `PictureSource` of one file for each picture."""

    where: str
    catalogue: Catalogue
    paths: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 over each file's path, size and time of modification."""
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                status = os.stat(path)  # noqa: PTH116 - a Path for each of many files costs more than the call
            except OSError:
                digest.update(f"{path}\0absent\0".encode("utf-8", "surrogateescape"))
                continue
            digest.update(
                f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()

    def place(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]

    def readable(self, progress: Progress | None = None) -> npt.NDArray[np.bool_]:
        """Decode each file at its smallest scale."""
        found = np.zeros(len(self.paths), np.bool_)
        for index, path in enumerate(self.paths):
            found[index] = is_readable(Path(path))
            if progress:
                progress(index + 1, len(self.paths))
        return found

    def pictures(self, input: ImageInput) -> Iterator[Pixels | None]:
        """Decode one file after the other."""
        for path in self.paths:
            try:
                yield to_pixels(Path(path), input)
            except DataError:
                yield None


def open_folder(folder: Path) -> PictureFiles:
    """Find the pictures of a folder by class, with or without ``train``, ``val`` and ``test`` above.

    Raises:
        DataError: no such folder, nothing in it, no pictures, or a single class.
    """
    top = _subfolders(folder)
    if "train" in {name.lower() for name in top}:
        parts = [(SPLITS[name.lower()], path) for name, path in top.items() if name.lower() in SPLITS]
    else:
        _require_no_fleet(folder, top)
        parts = [(UNSPLIT, folder)]
    paths: list[str] = []
    labels: list[str] = []
    splits: list[int] = []
    declared: set[str] = set()
    for split, part in parts:
        for label, class_folder in _subfolders(part).items():
            declared.add(label)
            for path in _pictures_below(class_folder):
                paths.append(path)
                labels.append(label)
                splits.append(split)
    _require_classes(folder, declared, bool(paths))
    return PictureFiles(str(folder), Catalogue.of(labels, splits, declared), tuple(paths))


def open_list(file: Path, label_column: str | None = None, pictures: Path | None = None) -> PictureFiles:
    """Read a CSV of path and label, with a header or without.

    Paths count from the folder of `pictures`, or from the CSV's own.

    A column ``split`` may say train, val or test.

    Raises:
        DataError: no such file, not a CSV of that kind, or no rows.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return _read_list(file, csv.reader(stream), label_column, pictures or file.parent)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"{file}: cannot be read as a CSV of path and label: {exc}") from exc


def _read_list(file: Path, rows: Iterator[list[str]], label_column: str | None, folder: Path) -> PictureFiles:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{file} is empty: expected lines of path,label")
    names = [cell.strip().lower() for cell in first]
    path_at = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
    if path_at is None:
        label_at, split_at, path_at = 1, None, 0
        rows, first_row = _chain(first, rows), 1
    else:
        label_at = _label_position(file, names, label_column)
        split_at = names.index("split") if "split" in names else None
        first_row = 2
    paths: list[str] = []
    labels: list[str] = []
    splits: list[int] = []
    for number, row in enumerate(rows, start=first_row):
        if not row:
            continue
        if len(row) <= max(path_at, label_at, split_at or 0) or not row[label_at].strip():
            raise DataError(f"{file}, row {number}: expected a path and a label, got {','.join(row)[:80]!r}")
        paths.append(str(folder / row[path_at].strip()))
        labels.append(row[label_at].strip())
        splits.append(UNSPLIT if split_at is None else _split(file, number, row[split_at]))
    if not paths:
        raise DataError(f"{file} lists no pictures")
    return PictureFiles(str(file), Catalogue.of(labels, splits), tuple(paths))


def _chain(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _label_position(file: Path, names: list[str], label_column: str | None) -> int:
    wanted = (label_column.lower(),) if label_column else LABEL_COLUMNS
    for name in wanted:
        if name in names:
            return names.index(name)
    raise DataError(f"{file}: no column {' or '.join(wanted)} among {', '.join(names)[:200]}")


def _split(file: Path, number: int, text: str) -> int:
    try:
        return SPLITS[text.strip().lower()]
    except KeyError:
        raise DataError(f"{file}, row {number}: split {text[:40]!r} is none of {', '.join(SPLITS)}") from None


def _subfolders(folder: Path) -> dict[str, Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        raise DataError(f"{folder}: cannot be read as a folder of pictures: {exc.strerror}") from exc
    return {entry.name: entry for entry in entries if entry.is_dir() and not _hidden(entry.name)}


def _pictures_below(folder: Path) -> Iterator[str]:
    for where, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
        for name in sorted(names):
            path = os.path.join(where, name)  # noqa: PTH118 - as above
            if not _hidden(name) and _claims_to_be_picture(path):
                yield path


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _claims_to_be_picture(path: str) -> bool:
    if os.path.splitext(path)[1].lower() in SUFFIXES:  # noqa: PTH122
        return True
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return looks_like_picture(file.read(12))
    except OSError:
        return False


def _require_no_fleet(folder: Path, top: dict[str, Path]) -> None:
    """Hospitals side by side would otherwise pass for classes."""
    for inside in top.values():
        if (inside / "train").is_dir():
            raise DataError(
                f"{folder} holds several data sets: use {inside}, or hospitals:{folder} in a demo"
            )


def _require_classes(folder: Path, declared: set[str], any_pictures: bool) -> None:
    layout = "one folder of pictures for each class, e.g. no/ and yes/"
    if not declared:
        raise DataError(f"{folder} has no class folders: expected {layout}")
    if not any_pictures:
        raise DataError(
            f"{folder} holds no pictures: expected {layout}; DICOM files are to be exported as PNG first"
        )
    if len(declared) < 2:
        raise DataError(
            f"{folder} has one class only, {min(declared)!r}: expected {layout}; "
            "an empty folder names a class that has no pictures here"
        )
