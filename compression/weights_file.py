"""Weights in a file to carry around: an npz of tensors by name, and of which model they are."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.records import Between, Length, Record, RecordError, dumps, loads
from compression.spec import Label, Weights

SOURCE = "@source"  # no Keras tensor has a name like this
MAX_SOURCE_BYTES = 64 * 1024


class WeightsFileError(BrambleError, ValueError):
    """A file that is not an npz of weights."""


@dataclass(frozen=True, slots=True)
class ModelSource(Record):
    """From what a model can be built again: ``module:function`` and what it is called with."""

    model: Annotated[str, Length(1, 200)]
    input: Annotated[tuple[Annotated[int, Between(1, 4096)], ...], Length(1, 3)]
    classes: Annotated[tuple[Label, ...], Length(2, 64)]


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a file holds: float32 tensors by name, in their order; where the model is from, if known."""

    weights: dict[str, npt.NDArray[np.float32]]
    source: ModelSource | None = None

    def to_bytes(self) -> bytes:
        """As an npz."""
        arrays: dict[str, Any] = dict(self.weights)
        if self.source is not None:
            arrays[SOURCE] = np.frombuffer(dumps(self.source), np.uint8)
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()


def write_weights(path: Path, weights: Weights, source: ModelSource | None = None) -> None:
    """Write an npz of the tensors by name, in their order."""
    path.write_bytes(WeightsFile(dict(weights), source).to_bytes())


def read_weights(path: Path) -> WeightsFile:
    """Inverse of `write_weights`.

    Raises:
        WeightsFileError: another kind of file, or tensors that are not float32.
    """
    arrays = _load(path)
    text = arrays.pop(SOURCE, None)
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise WeightsFileError(f"{path}: {name} is {array.dtype}, weights are float32")
    return WeightsFile(arrays, None if text is None else _source(path, text))


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                return dict(loaded)
    except (ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise WeightsFileError(f"{path} is not an npz of weights by name: {exc}") from exc
    raise WeightsFileError(f"{path} is not an npz of weights by name")


def _source(path: Path, text: npt.NDArray[Any]) -> ModelSource:
    try:
        return loads(ModelSource, text.tobytes(), max_bytes=MAX_SOURCE_BYTES)
    except RecordError as exc:
        raise WeightsFileError(f"{path}: {exc}") from exc
