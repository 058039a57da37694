"""The archives that images come in: what each declares about its size, and its bytes decoded in pieces.

Every decoder is bounded: a piece is at most `PIECE` bytes (one block for xz), whatever the archive claims.
"""

from __future__ import annotations

import contextlib
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.image import xz, zst
from provisioning.image.ahead import ahead
from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import PIECE, HashedFile

inflate: Any = zlib
with contextlib.suppress(ImportError):  # no wheel for every machine
    from isal import isal_zlib

    inflate = isal_zlib  # half as fast again

INFLATE_ERROR: type[Exception] = inflate.error
DAMAGED = (lzma.LZMAError, zlib.error, INFLATE_ERROR, EOFError, zipfile.BadZipFile)
READ = 1 << 20
GZIP_WRAPPED, RAW_DEFLATE = 31, -15  # what zlib calls window bits
LOCAL_HEADER_BYTES = 30  # of a zip member, before its name


@dataclass(frozen=True, slots=True)
class Opened:
    """An archive looked at: the decoded size if it is declared (and then held to), and how to decode it."""

    size: int | None
    pieces: Callable[[HashedFile], Iterator[bytes]]


def open_raw(path: Path) -> Opened:
    """An image as it is."""
    return Opened(path.stat().st_size, lambda file: iter(lambda: file.read(PIECE), b""))


def open_xz(path: Path) -> Opened:
    """xz, in parallel where it has blocks."""
    layout = xz.read_layout(path)
    return Opened(layout.decoded, lambda file: xz.decode(file, layout))


def open_zst(path: Path) -> Opened:
    """Zstandard."""
    return Opened(zst.read_size(path), lambda file: ahead(zst.decode(file)))


def open_gz(_path: Path) -> Opened:
    """gzip, one member or many. It declares its size modulo 4 GiB only, which is no help."""
    return Opened(None, lambda file: ahead(_gunzip(file)))


def open_zip(path: Path) -> Opened:
    """A zip archive with one file in it."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        images = [member for member in members if member.filename.endswith(".img")]
        if len(images) != 1:
            raise ImageError(f"{path} holds {len(members)} files; it must hold one image")
        members = images
    member = members[0]
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise ImageError(f"{path} is encrypted or compressed in an unusual way; pack it again with zip")
    return Opened(member.file_size, lambda file: ahead(_unzip(file, member)))


def _gunzip(file: HashedFile) -> Iterator[bytes]:
    rest = b""
    while data := (rest or file.read(READ)):
        decoder = inflate.decompressobj(GZIP_WRAPPED)
        yield from _inflate(decoder, data, lambda: file.read(READ))
        rest = decoder.unused_data
        if not rest.strip(b"\0"):  # padding after the last member
            rest = b""
            if not (data := file.read(READ).lstrip(b"\0")):
                return
            rest = data


def _unzip(file: HashedFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    file.skip_to(member.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES:
        raise EOFError("the file ends in the middle")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    file.read(name_bytes + extra_bytes)
    checksum, left = 0, member.compress_size

    def more() -> bytes:
        nonlocal left
        data = file.read(min(READ, left))
        left -= len(data)
        return data

    if member.compress_type == zipfile.ZIP_STORED:
        pieces = iter(more, b"")
    else:
        pieces = _inflate(inflate.decompressobj(RAW_DEFLATE), more(), more)
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if checksum != member.CRC:
        raise EOFError("the checksum does not fit")


def _inflate(decoder: Any, data: bytes, more: Callable[[], bytes]) -> Iterator[bytes]:
    """One deflate stream to its end."""
    while not decoder.eof:
        yield decoder.decompress(data, PIECE)
        data = decoder.unconsumed_tail or (b"" if decoder.eof else more())
        if not data and not decoder.eof:
            raise EOFError("the file ends in the middle")


Opener = Callable[[Path], Opened]
MAGICS: tuple[tuple[bytes, str, Opener], ...] = (
    (xz.MAGIC, "xz", open_xz),
    (zst.MAGIC, "zst", open_zst),
    (b"\x1f\x8b\x08", "gz", open_gz),
    (b"PK\x03\x04", "zip", open_zip),
)


def detect(path: Path) -> tuple[str, Opener]:
    """The archive's kind by its first bytes, never by its name; ``img`` needs the mark of a boot record.

    Raises:
        ImageError: none of those.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError(f"{path} is not a file")
    with path.open("rb") as file:
        head = file.read(512)
    for magic, kind, opener in MAGICS:
        if head.startswith(magic):
            return kind, opener
    if len(head) == 512 and head.endswith(b"\x55\xaa"):
        return "img", open_raw
    raise ImageError(f"{path} is neither xz, zst, gz, zip nor a disk image with a partition table")
