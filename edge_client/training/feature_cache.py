"""Features on disk: made once a picture, kept across rounds, restarts and runs.

One file an extractor. Records are appended; one that was cut off by a power failure, or damaged, is not
believed and made again. Those of pictures that are gone stay until there are more of them than of the others,
so that a file is at most twice as large as it needs to be and is not rewritten for every new picture::

    32  key: SHA-256 of extractor, preprocessing and pixels
    4n  float32 features, little-endian
    4   CRC-32 of the two
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import FeatureInput
from edge_client.data.cache import replacing

log = logging.getLogger(__name__)

KEY_BYTES = 32
CRC = struct.Struct("<I")
FILES_KEPT = 2  # extractors: the one in use and the one before

FloatArray = npt.NDArray[np.float32]


class FeatureCache:
    """The features of one extractor; the folder is shared by all, and old ones' files are removed from it."""

    def __init__(self, folder: Path, input: FeatureInput) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._prefix = bytes.fromhex(input.extractor) + str(input.picture).encode()
        self._file = folder / f"features-{input.extractor[:32]}.bin"
        self._size = KEY_BYTES + 4 * input.features + CRC.size
        self._places = dict(self._scan())
        _prune(self._file)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, pixels: npt.NDArray[Any]) -> bytes:
        """What the features of a picture are kept under."""
        return hashlib.sha256(self._prefix + pixels.tobytes()).digest()

    def get(self, key: bytes) -> FloatArray | None:
        """Features, or None if they are not there."""
        place = self._places.get(key)
        if place is None:
            return None
        with self._file.open("rb") as stream:
            stream.seek(place)
            record = stream.read(self._size)
        if len(record) < self._size or not record.startswith(key):  # another process has swept the file
            return None
        return np.frombuffer(record[KEY_BYTES : -CRC.size], "<f4").astype(np.float32)

    def add(self, found: Mapping[bytes, FloatArray]) -> None:
        """Append and sync; raise OSError if the disk is full, and what was there stays.

        Several processes may do so at once; what another has added since is not seen.
        """
        if not found:
            return
        self._file.touch()
        with self._file.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # let go with the file
            end = self._whole()
            stream.truncate(end)  # what a power failure cut off
            stream.seek(end)
            for key, features in found.items():
                body = key + np.asarray(features, "<f4").tobytes()
                stream.write(body + CRC.pack(zlib.crc32(body)))
            stream.flush()
            os.fsync(stream.fileno())
        self._places |= {key: end + number * self._size for number, key in enumerate(found)}

    def sweep(self, used: Collection[bytes]) -> None:
        """Keep these keys' features alone, if the others take more room; a full disk leaves all as it is."""
        found = {key: self._places[key] for key in used if key in self._places}
        if self._whole() <= 2 * len(found) * self._size:
            return
        try:
            self._keep_only(sorted(found.values()))
        except OSError as exc:
            log.warning("features of pictures that are gone stay on the disk: %s", exc)
            return
        self._places = dict(self._scan())

    def _keep_only(self, places: list[int]) -> None:
        with self._file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # what is appended to the old file from here on is lost
            with replacing(self._file) as target:
                for place in places:
                    stream.seek(place)
                    target.write(stream.read(self._size))

    def _whole(self) -> int:
        size = self._file.stat().st_size if self._file.exists() else 0
        return size - size % self._size

    def _scan(self) -> Iterator[tuple[bytes, int]]:
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            for place in range(0, self._whole(), self._size):
                record = stream.read(self._size)
                body, (crc,) = record[: -CRC.size], CRC.unpack(record[-CRC.size :])
                if zlib.crc32(body) == crc:
                    yield body[:KEY_BYTES], place


def _prune(newest: Path) -> None:
    others = [file for file in newest.parent.glob("features-*.bin") if file != newest]
    others.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in others[FILES_KEPT - 1 :]:
        with contextlib.suppress(OSError):
            file.unlink()
