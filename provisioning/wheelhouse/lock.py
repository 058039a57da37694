"""``wheelhouse.json``: what a wheelhouse holds, each file with its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from compression.records import Between, Length, Matches, Record, RecordError, dumps, loads
from edge_client.files import write_atomically
from edge_client.wire.blobs import Digest
from provisioning.wheelhouse.errors import WheelhouseError

LOCK_FILE = "wheelhouse.json"
MAX_LOCK_BYTES = 1 << 20

FileName = Annotated[str, Matches(r"[A-Za-z0-9][A-Za-z0-9._+~%!-]{0,254}")]


@dataclass(frozen=True, slots=True)
class Item(Record):
    """One file of a wheelhouse."""

    name: Annotated[str, Length(1, 200)]
    version: Annotated[str, Length(1, 200)]
    kind: Literal["wheel", "deb"]
    file: FileName
    sha256: Digest
    size: Annotated[int, Between(1, 1 << 32)]


@dataclass(frozen=True, slots=True)
class Lock(Record):
    """A wheelhouse as a value.

    Attributes:
        target: a name of `provisioning.wheelhouse.targets.SYSTEMS`.
        python: version of the target's Python, as "3.13".
        client: version of Bramble.
        build: seconds since 1970 when this content was first collected; later builds are newer clients.
        source: digest of the client's own sources (`own.source_digest`), or of the wheel that was given.
        bytecode: whether the site tree holds bytecode for the target's Python.
        archive: SHA-256 of ``client.tar.gz``.
        items: wheels and Debian packages.
        distribution: names of the packages that were asked of the distribution.
    """

    target: Annotated[str, Length(1, 40)]
    python: Annotated[str, Matches(r"3\.\d{1,2}")]
    client: Annotated[str, Length(1, 100)]
    build: Annotated[int, Between(1, 1 << 53)]
    source: Digest
    bytecode: bool
    archive: Digest
    items: Annotated[tuple[Item, ...], Length(1, 1000)]
    distribution: tuple[str, ...] = ()

    def of_kind(self, kind: Literal["wheel", "deb"]) -> tuple[Item, ...]:
        """The files of one kind."""
        return tuple(item for item in self.items if item.kind == kind)


def read_lock(folder: Path) -> Lock:
    """The lock of a wheelhouse."""
    path = folder / LOCK_FILE
    try:
        return loads(Lock, path.read_bytes(), max_bytes=MAX_LOCK_BYTES)
    except FileNotFoundError as exc:
        raise WheelhouseError(
            f"{folder} is not a wheelhouse; make one: bramble-provision wheelhouse --target SYSTEM "
            f"--out {folder}"
        ) from exc
    except RecordError as exc:
        raise WheelhouseError(f"{path} is damaged ({exc}): remove it and make it again") from exc


def write_lock(folder: Path, lock: Lock) -> None:
    """Replace the lock of a wheelhouse."""
    write_atomically(folder / LOCK_FILE, dumps(lock), mode=0o644)


def item_of(path: Path, kind: Literal["wheel", "deb"], name: str, version: str) -> Item:
    """The entry of a file."""
    size = path.stat().st_size
    return Item(name=name, version=version, kind=kind, file=path.name, sha256=file_sha256(path), size=size)


def damaged(folder: Path, lock: Lock) -> list[str]:
    """Names of files that are missing or are not what the lock says."""
    return [
        item.file
        for item in lock.items
        if not (path := folder / item.kind / item.file).is_file() or file_sha256(path) != item.sha256
    ]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
