"""``client.tar.gz``: the site tree and what it is, as one file that a device unpacks.

Equal trees give equal bytes: entries are sorted and carry no times, owners or odd modes.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from edge_client.files import sync_directory

ARCHIVE_FILE, MANIFEST_FILE, SITE = "client.tar.gz", "client.json", "site"
COMPRESSION = 6  # 9 takes five times as long for one per cent


@dataclass(frozen=True, slots=True)
class Client:
    """What a site tree is; `build` only grows (`provisioning.wheelhouse.lock.Lock`)."""

    version: str
    build: int
    target: str
    python: str
    bytecode: bool

    def manifest(self) -> bytes:
        """``client.json``, as the launcher reads it."""
        fields = {name: getattr(self, name) for name in sorted(self.__dataclass_fields__)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def write_archive(client: Client, site: Path, path: Path) -> None:
    """Pack a site tree."""
    temporary = path.with_name(f".{path.name}.tmp")
    with (
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, MANIFEST_FILE, client.manifest())
        for file in sorted(site.rglob("*")):
            if file.is_file():
                _add(tar, f"{SITE}/{file.relative_to(site).as_posix()}", file.read_bytes())
    temporary.replace(path)
    sync_directory(path.parent)


def is_unpacked(path: Path, site: Path) -> bool:
    """Whether a site tree holds what its archive does, byte for byte, and no more but what Python leaves."""
    left = {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()}
    with tarfile.open(path, mode="r|gz") as tar:
        for member in tar:
            name = member.name.removeprefix(f"{SITE}/")
            if name == member.name:  # the manifest
                continue
            packed = tar.extractfile(member)
            if name not in left or packed is None or packed.read() != (site / name).read_bytes():
                return False
            left.remove(name)
    return all("__pycache__" in name for name in left)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))
