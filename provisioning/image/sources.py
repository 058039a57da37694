"""An image file: what it is, whether it is the one that was meant, and its bytes one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioning.image.errors import ImageError
from provisioning.image.formats import DAMAGED, Opened, detect
from provisioning.image.hashed_file import HashedFile

SHA256 = re.compile(r"[0-9a-fA-F]{64}")
MAX_HASH_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """An image looked at, not yet read. `size` is that of the decoded image, where it is declared."""

    path: Path
    kind: str
    size: int | None
    archive_bytes: int
    sha256: str | None  # what the file must hash to; None after an explicit opt-out
    opened: Opened


def open_image(path: Path, *, sha256: str | None = None, no_hash: bool = False) -> Image:
    """Look at an image and find the hash that it must have: given, in a file beside it, or waived.

    Raises:
        ImageError: unknown or truncated archive, no hash and no `no_hash`, a malformed hash.
    """
    if not path.exists():
        raise ImageError(f"{path} does not exist")
    expected = None if no_hash else find_hash(path, sha256)
    kind, opener = detect(path)
    try:
        opened = opener(path)
    except DAMAGED as exc:
        raise ImageError(f"{path} is a truncated or damaged {kind} file ({exc}); fetch it again") from exc
    if opened.size == 0:
        raise ImageError(f"{path} holds an empty image")
    return Image(path, kind, opened.size, path.stat().st_size, expected, opened)


def find_hash(path: Path, given: str | None) -> str:
    """The SHA-256 of the file as it was published, in lower case.

    Raises:
        ImageError: there is none, or it is none.
    """
    if given is not None:
        if not SHA256.fullmatch(given):
            raise ImageError(f"{given[:80]!r} is not a SHA-256: 64 hexadecimal digits are")
        return given.lower()
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        raise ImageError(f"no hash for {path}: give --sha256, put {beside.name} beside it, or say --no-hash")
    with beside.open(encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file.read(MAX_HASH_FILE).splitlines()]
    found = [words[0].lower() for words in lines if words and _is_for(words, path.name)]
    if len(found) != 1:
        raise ImageError(f"{beside} does not hold one SHA-256 for {path.name}")
    return found[0]


def _is_for(words: list[str], name: str) -> bool:
    """`HEX`, `HEX  NAME` or `HEX *NAME`, as sha256sum prints them."""
    named = words[1].lstrip("*") if len(words) > 1 else name
    return SHA256.fullmatch(words[0]) is not None and Path(named).name == name


def read_image(image: Image, file: HashedFile, *, limit: int) -> Iterator[bytes]:
    """The decoded image in pieces; ends only if it is whole and its hash is right.

    Raises:
        ImageError: damaged, truncated, of another size than declared, more than `limit` bytes (the size
            of the target: an archive that decodes without end stops there), or with another hash.
    """
    total = 0
    try:
        for piece in image.opened.pieces(file):
            total += len(piece)
            if total > limit or (image.size is not None and total > image.size):
                raise ImageError(f"{image.path} decodes to more than {min(limit, image.size or limit)} bytes")
            if piece:
                yield piece
    except DAMAGED as exc:
        raise ImageError(f"{image.path} is damaged or truncated ({exc}); fetch it again") from exc
    if total == 0 or (image.size is not None and total != image.size):
        raise ImageError(f"{image.path} decodes to {total} bytes, not the {image.size} it declares")
    found = file.sha256()
    if image.sha256 not in (None, found):
        raise ImageError(f"{image.path} has SHA-256 {found}, not {image.sha256}; fetch it again")
