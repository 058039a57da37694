"""Zstandard archives. The library ends quietly where a file is cut off, so the frames are walked first.

Format: RFC 8878.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import PIECE, HashedFile

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = 0x184D2A50  # and the fifteen numbers after it
LARGEST_HEADER = 18
RUN_LENGTH = 1  # block type whose size is that of what it decodes to: one byte is stored
UNKNOWN_SIZES = (None, -1, 2**64 - 1)


def read_size(path: Path) -> int | None:
    """The decoded size, if every frame declares its own; the frames are walked to the end of the file.

    Raises:
        ImageError: the file ends in the middle, or zstandard is not installed.
    """
    zstandard = _zstandard()
    total: int | None = 0
    with path.open("rb", buffering=1 << 16) as file:
        end = os.fstat(file.fileno()).st_size
        position = 0
        while position < end:
            file.seek(position)
            head = file.read(LARGEST_HEADER)
            if len(head) >= 8 and int.from_bytes(head[:4], "little") & ~15 == SKIPPABLE:
                position += 8 + int.from_bytes(head[4:8], "little")
                continue
            try:
                frame = zstandard.get_frame_parameters(head)
                position += zstandard.frame_header_size(head)
            except zstandard.ZstdError as exc:
                raise ImageError(f"{path} is a damaged zst file ({exc}); fetch it again") from exc
            position = _after_blocks(file, position) + (4 if frame.has_checksum else 0)
            known = total is not None and frame.content_size not in UNKNOWN_SIZES
            total = total + frame.content_size if known and total is not None else None
    if position != end:
        raise ImageError(f"{path} is a truncated zst file; fetch it again")
    return total


def decode(file: HashedFile) -> Iterator[bytes]:
    """The decoded bytes in pieces. Raises `zstandard.ZstdError`, as `ImageError`."""
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor().stream_reader(file, read_size=1 << 20, read_across_frames=True)
    try:
        while piece := reader.read(PIECE):
            yield piece
    except zstandard.ZstdError as exc:
        raise ImageError(f"{file.path} is damaged ({exc}); fetch it again") from exc


def _after_blocks(file: Any, position: int) -> int:
    """Where the blocks of a frame end; beyond the end of the file where it is cut off."""
    while True:
        file.seek(position)
        header = int.from_bytes(file.read(3).ljust(3, b"\1"), "little")
        size = header >> 3
        position += 3 + (1 if header >> 1 & 3 == RUN_LENGTH else size)
        if header & 1:
            return position


def _zstandard() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - other archives need no package
    except ImportError as exc:
        raise ImageError(
            "zst images need the package zstandard: pip install 'bramble[server]', or unpack the image"
        ) from exc
    return zstandard
