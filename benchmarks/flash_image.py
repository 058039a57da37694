"""An image to flash: program files of this machine with stretches of nothing between, and its archives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import BenchmarkError

SEGMENT = 32 << 20  # each one part data, then zeros
TABLE_BYTES = 1 << 20  # before the first partition
SOURCES = ("/usr/lib", "/usr/bin", sys.prefix)
COMPRESSORS = {
    # Blocks of xz's default level, as pi-gen's `xz --threads 0` makes them; a low level to make them soon.
    "xz": ("xz", "-1", "--threads=0", "--block-size=24MiB", "--keep", "--force"),
    "zst": ("zstd", "-3", "-T0", "--quiet", "--force"),
    "gz": ("gzip", "-6", "--keep", "--force"),
}
KINDS = ("img", *COMPRESSORS, "zip")


def make_image(path: Path, size: int, *, zeros: float) -> None:
    """Write `size` bytes, the share `zeros` of them holes, and the mark of a boot record.

    Raises:
        BenchmarkError: this machine has no files to fill it with.
    """
    data = _program_bytes()
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(510)
        file.write(b"\x55\xaa")
        for start in range(TABLE_BYTES, size, SEGMENT):
            end = min(start + SEGMENT, size)
            file.seek(start)
            left = round((end - start) * (1 - zeros))
            while left > 0:
                piece = next(data, b"")
                if not piece:
                    raise BenchmarkError(f"no program files below {', '.join(SOURCES)} to make an image of")
                left -= file.write(piece[:left])


def pack(image: Path, kind: str) -> Path:
    """The image in an archive beside it.

    Raises:
        BenchmarkError: the program that packs it is not installed.
    """
    if kind == "img":
        return image
    archive = image.with_name(f"{image.name}.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.write(image, image.name)
        return archive
    command = COMPRESSORS[kind]
    if shutil.which(command[0]) is None:
        raise BenchmarkError(f"{command[0]} is not installed, so there is no .{kind} to flash")
    subprocess.run([*command, str(image)], check=True)
    return archive


def _program_bytes() -> Iterator[bytes]:
    """Files in a fixed order, again and again."""
    found = True
    while found:
        found = False
        for source in SOURCES:
            for folder, folders, names in os.walk(source):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    if path.is_file() and not path.is_symlink() and (data := _read(path)):
                        found = True
                        yield data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
