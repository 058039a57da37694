"""A signed client in one file: what `bramble-edge upgrade FILE` takes and what the agent puts together.

Little-endian: magic ``BRUP``, the length of the frame as four bytes, the frame of an `Upgrade` as it was
signed for the device's own topic, and the client's archive. So one file is good for one device.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_client.files import sync_directory
from edge_client.upgrade.errors import UpgradeError
from edge_client.wire.errors import WireError
from edge_client.wire.frame import MAX_FRAME_BYTES, decode
from edge_client.wire.signing import Verifier
from edge_client.wire.topics import MESSAGE, Topics
from edge_client.wire.upgrade import Upgrade

MAGIC = b"BRUP"
_LENGTH = struct.Struct("<I")


def write_package(path: Path, frame: bytes, archive: Path) -> None:
    """Put frame and archive together, a piece at a time: a device may have little memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file, archive.open("rb") as source:
        file.write(MAGIC + _LENGTH.pack(len(frame)) + frame)
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())  # the request for root is durable, so this must be
    temporary.replace(path)
    sync_directory(path.parent)


@contextmanager
def open_package(
    path: Path, verifier: Verifier, fleet: str, device: str
) -> Iterator[tuple[Upgrade, IO[bytes]]]:
    """The upgrade in a file and its archive, once signature, addressee and digest have proved right.

    Raises:
        UpgradeError: it is not by the fleet's key, not for this device, damaged, or no package at all.
    """
    with path.open("rb") as file:
        upgrade = _read_upgrade(file, verifier, fleet, device)
        begin = file.tell()
        if hashlib.file_digest(file, "sha256").hexdigest() != upgrade.archive.digest:  # from here to the end
            raise UpgradeError("the archive is not the one that was signed; fetch it again")
        file.seek(begin)
        yield upgrade, file


def _read_upgrade(file: IO[bytes], verifier: Verifier, fleet: str, device: str) -> Upgrade:
    head = file.read(len(MAGIC) + _LENGTH.size)
    if len(head) != len(MAGIC) + _LENGTH.size or head[: len(MAGIC)] != MAGIC:
        raise UpgradeError("this is not an upgrade: make one with bramble-provision upgrade --out")
    (length,) = _LENGTH.unpack(head[len(MAGIC) :])
    if length > MAX_FRAME_BYTES:
        raise UpgradeError(f"a frame of {length} bytes is too long")
    try:
        topic = Topics(fleet).down(device, MESSAGE)
        message = decode(file.read(length), topic=topic, verifier=verifier).message
    except WireError as exc:
        raise UpgradeError(f"{exc}; is it for {device} of fleet {fleet}?") from exc
    if not isinstance(message, Upgrade) or message.fleet != fleet:
        raise UpgradeError(f"it holds a {type(message).__name__}, not an upgrade of fleet {fleet}")
    return message
