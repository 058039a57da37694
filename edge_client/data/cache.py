"""Decoded pictures on disk, mapped into memory a few pages at a time.

A device decodes its pictures once; the next start and the next round read the pixels back. The file
is an ordinary ``.npy`` named after a hash of the source (paths, sizes, times of modification) and of
the input's size and channels, so any change makes a new one. Beside it lies a ``.kept.npy`` with one
boolean for each picture; it is written first, so the pixels' presence means both are whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput
from edge_client.data.catalogue import PictureSource, Pixels, Progress
from edge_client.data.errors import DataError
from edge_client.files import LEFT_OVER

FORMAT = 1  # to be raised when pixels would come out differently
FILES_KEPT = 2  # of a cache folder: this source now, and as it was before the last change


@dataclass(frozen=True, slots=True)
class Decoded:
    """All pictures of a source; those that could not be read are zero and not kept."""

    pixels: Pixels
    kept: npt.NDArray[np.bool_]


def decode(source: PictureSource, input: ImageInput, progress: Progress | None = None) -> Decoded:
    """Decode into memory."""
    total = len(source.catalogue.codes)
    pixels = np.zeros((total, *input.shape), np.uint8)
    kept = np.zeros(total, np.bool_)
    for index, picture in enumerate(source.pictures(input)):
        if picture is not None:
            pixels[index], kept[index] = picture, True
        if progress:
            progress(index + 1, total)
    return Decoded(pixels, kept)


def decode_through_cache(
    source: PictureSource, input: ImageInput, folder: Path, progress: Progress | None = None
) -> Decoded:
    """Map the pixels from the cache, after decoding them into it if they are not there.

    Raises:
        DataError: the cache cannot be written.
    """
    file = folder / f"pictures-{_key(source, input)}.npy"
    shape = (len(source.catalogue.codes), *input.shape)
    found = _read(file, shape)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(source, input, file, progress)
        _prune(folder, file)
    except OSError as exc:
        raise DataError(f"{file}: the cache of decoded pictures cannot be written: {exc.strerror}") from exc
    written = _read(file, shape)
    if written is None:
        raise DataError(f"{file}: the cache of decoded pictures changed while it was written")
    return written


def release_pages(array: npt.NDArray[Any]) -> None:
    """Give the pages of a mapped file back to the system; they stay in its cache, not in our memory.

    Does nothing for an array that is not mapped.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def map_array(file: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any] | None:
    """Map a ``.npy`` file read-only; None unless it is exactly an array of this shape and type."""
    dtype = np.dtype(dtype)
    try:
        with file.open("rb") as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                return None
            if np.lib.format.read_array_header_1_0(stream) != (shape, False, dtype):
                return None
            start = stream.tell()
            size = int(np.prod(shape)) * dtype.itemsize
            if os.fstat(stream.fileno()).st_size != start + size:
                return None
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    return np.frombuffer(mapped, dtype, offset=start).reshape(shape)


@contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name; synced and renamed on success, removed on failure.

    What killed processes left in the folder goes first: it may be as large as all of its pictures.
    """
    _sweep_parts(file.parent)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # let go with the file, by a killed process too
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep_parts(folder: Path) -> None:
    for part in (path for path in folder.glob(".*.part") if LEFT_OVER.fullmatch(path.name)):
        with contextlib.suppress(OSError), part.open("rb") as stream:  # locked: somebody is writing it
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """The header of a ``.npy`` file, format 1.0."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _write(source: PictureSource, input: ImageInput, file: Path, progress: Progress | None) -> None:
    total = len(source.catalogue.codes)
    kept = np.zeros(total, np.bool_)
    blank = bytes(int(np.prod(input.shape)))
    with replacing(file) as stream:
        write_header(stream, (total, *input.shape), np.uint8)
        for index, picture in enumerate(source.pictures(input)):
            kept[index] = picture is not None
            stream.write(blank if picture is None else picture.tobytes())
            if progress:
                progress(index + 1, total)
        with replacing(_kept_file(file)) as beside:
            write_header(beside, kept.shape, kept.dtype)
            beside.write(kept.tobytes())


def _read(file: Path, shape: tuple[int, ...]) -> Decoded | None:
    pixels = map_array(file, shape, np.uint8)
    kept = map_array(_kept_file(file), shape[:1], np.bool_)
    if pixels is None or kept is None:
        return None
    return Decoded(pixels, kept.copy())


def _prune(folder: Path, newest: Path) -> None:
    files = [file for file in folder.glob("pictures-*.npy") if not file.name.endswith(".kept.npy")]
    by_age = sorted((file for file in files if file != newest), key=lambda file: file.stat().st_mtime_ns)
    for file in by_age[: max(0, len(by_age) + 1 - FILES_KEPT)]:
        file.unlink(missing_ok=True)
        _kept_file(file).unlink(missing_ok=True)


def _kept_file(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".npy") + ".kept.npy")


def _key(source: PictureSource, input: ImageInput) -> str:
    text = f"{FORMAT}\0{source.fingerprint()}\0{input.shape}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
