"""Features of pictures: a frozen backbone runs once a picture, and the device remembers what came out.

A head of a few layers trains on the features as on the rows of a table. They are kept in one file a backbone,
by the content of picture and backbone: a picture that comes back under another name is not run again, and a
new backbone starts a new file. Records are only ever appended; one that was cut off by a power failure, or
damaged, is not believed and made again::

    32  SHA-256 of backbone and preprocessed picture
    4n  float32 features, little-endian
    4   CRC-32 of the two
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import ImageInput, TableInput
from edge_client.data import LocalData, normalise
from edge_client.runtime import make_interpreter
from edge_client.training.trainer import FloatArray, TrainingError

KEY_BYTES = 32
CRC = struct.Struct("<I")
MAX_FEATURES = 4096  # columns of a TableInput

Progress = Callable[[int, int], None]  # pictures done and in all


class FeatureExtractor:
    """An int8 backbone in memory: float32 [1, *input] in, float32 [1, features] out.

    Raises:
        TrainingError: the runtime refuses the file, or its shapes are other ones.
    """

    def __init__(self, model: bytes, input: ImageInput, *, threads: int = 1) -> None:
        try:
            self._interpreter = make_interpreter(model, threads=threads)
        except (ValueError, RuntimeError) as exc:
            raise TrainingError(f"the extractor does not run here: {exc}") from exc
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        found = [tuple(int(extent) for extent in detail["shape"]) for detail in (source, target)]
        if found[0] != (1, *input.shape) or len(found[1]) != 2 or not 1 <= found[1][1] <= MAX_FEATURES:
            raise TrainingError(f"the extractor takes {found[0]} and gives {found[1]}, for {input.shape}")
        self.input = input
        self.features = found[1][1]
        self.digest = hashlib.sha256(model).digest()
        self._source, self._target = int(source["index"]), int(target["index"])

    def __call__(self, picture: FloatArray) -> FloatArray:
        """Features [features] of one preprocessed picture [*input]."""
        self._interpreter.set_tensor(self._source, picture[None])
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self._target)[0], np.float32)

    def key(self, pixels: npt.NDArray[Any]) -> bytes:
        """What the features of a picture are kept under."""
        return hashlib.sha256(self.digest + str(self.input).encode() + pixels.tobytes()).digest()


class FeatureCache:
    """The features of one extractor on disk; the folder is shared by all extractors."""

    def __init__(self, folder: Path, extractor: FeatureExtractor) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"features-{extractor.digest.hex()[:32]}.bin"
        self._size = KEY_BYTES + 4 * extractor.features + CRC.size
        self._places = dict(self._scan())

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> FloatArray | None:
        """Features, or None if they are not there."""
        place = self._places.get(key)
        if place is None:
            return None
        with self._file.open("rb") as stream:
            stream.seek(place)
            record = stream.read(self._size)
        return np.frombuffer(record[KEY_BYTES : -CRC.size], "<f4").astype(np.float32)

    def add(self, found: dict[bytes, FloatArray]) -> None:
        """Append and sync; raise OSError if the disk is full, and what was there stays."""
        if not found:
            return
        end = self._whole()
        with self._file.open("r+b" if self._file.exists() else "w+b") as stream:
            stream.truncate(end)  # what a power failure cut off
            stream.seek(end)
            for key, features in found.items():
                body = key + np.asarray(features, "<f4").tobytes()
                stream.write(body + CRC.pack(zlib.crc32(body)))
            stream.flush()
            os.fsync(stream.fileno())
        self._places |= {key: end + number * self._size for number, key in enumerate(found)}

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


def extract_features(
    data: LocalData,
    extractor: FeatureExtractor,
    *,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    batch: int = 64,
) -> LocalData:
    """The same examples and splits with features in place of pixels; `feature_input` is their spec's input.

    Args:
        data: pictures, as `load_data` gives them for the extractor's input.
        cache: asked first, and given what is new after every `batch` pictures.
    """
    wanted = np.sort(np.concatenate([data.train_index, data.validation_index, data.test_index]))
    rows = np.zeros((len(data.inputs), extractor.features), np.float32)
    fresh: dict[bytes, FloatArray] = {}
    for done, index in enumerate(wanted.tolist(), start=1):
        pixels = data.inputs[index]
        key = extractor.key(pixels)
        known = fresh.get(key)
        if known is None and cache is not None:
            known = cache.get(key)
        features = extractor(normalise(pixels, extractor.input)) if known is None else known
        rows[index] = features
        if known is None:
            fresh[key] = features
        if cache is not None and (len(fresh) >= batch or done == len(wanted)):
            cache.add(fresh)
            fresh = {}
        if progress is not None:
            progress(done, len(wanted))
    return replace(data, inputs=rows)


def feature_input(features: int) -> TableInput:
    """The input of a head: so many columns, taken as they are."""
    columns = tuple(f"feature_{number}" for number in range(1, features + 1))
    return TableInput(columns, (0.0,) * features, (1.0,) * features)
