"""What a device and the server agree on about a model, and the file that carries it.

A `ModelSpec` says how a picture or a table row becomes the network's input, which classes there are
and in which order the weights travel. The spec is signed together with the training program (a
TFLite file of builtin ops) as one `TrainableBundle`, so device and server cannot disagree.

Bundle file, little-endian::

    offset  size  field
    0       4     magic "BRTB"
    4       1     version, 1
    5       3     zero
    8       4     S, length of the spec
    12      4     T, length of the TFLite file
    16      S     spec: canonical JSON (`compression.records`)
    16+S    T     TFLite flatbuffer
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.records import Between, Length, Matches, Record, RecordError, dumps, loads

Weights = Mapping[str, npt.NDArray[np.float32]]  # by tensor name, in the order of ModelSpec.tensors

MAX_PARAMETERS = 100_000_000  # 400 MB of float32: more than any Pi can train
MAX_FEATURES = 4096  # that an extractor makes of a picture: ResNet-50 makes 2,048
MAX_SPEC_BYTES = 1 << 20
MAX_TFLITE_BYTES = 512 << 20

Name = Annotated[str, Matches(r"[A-Za-z0-9_.:/-]{1,128}")]
Label = Annotated[str, Length(1, 128)]
Extent = Annotated[int, Between(1, 1 << 20)]

_HEADER = struct.Struct("<4sB3xII")
_MAGIC = b"BRTB"
_VERSION = 1


class SpecError(BrambleError, ValueError):
    """A bundle or a set of weights does not fit its spec."""


@dataclass(frozen=True, slots=True)
class TensorSpec(Record):
    """One weight tensor of the model, float32.

    ``role`` is "trainable" for what the optimiser moves and "statistic" for batch normalisation's
    moving mean and variance, which are averaged over the fleet but never touched by a gradient.
    """

    name: Name
    shape: Annotated[tuple[Extent, ...], Length(0, 8)]
    role: Literal["trainable", "statistic"] = "trainable"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ImageInput(Record):
    """Pictures: resized to (height, width), converted to grey or RGB, then ``pixel * scale + offset``."""

    TAG: ClassVar[str] = "image"
    height: Annotated[int, Between(1, 4096)]
    width: Annotated[int, Between(1, 4096)]
    channels: Literal[1, 3] = 1
    scale: float = 1 / 255
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (height, width, channels)."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, slots=True)
class TableInput(Record):
    """Table rows: the named columns in this order, each ``(value - center) / spread``."""

    TAG: ClassVar[str] = "table"
    columns: Annotated[tuple[Label, ...], Length(1, 4096)]
    center: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not len(self.columns) == len(self.center) == len(self.spread):
            raise RecordError("TableInput: columns, center and spread differ in length")
        if len(set(self.columns)) != len(self.columns):
            raise RecordError("TableInput: a column is named twice")
        if min(self.spread) <= 0:
            raise RecordError(f"TableInput: spread must be positive, got {min(self.spread)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (number of columns,)."""
        return (len(self.columns),)


@dataclass(frozen=True, slots=True)
class FeatureInput(Record):
    """Two steps: a picture as `picture` says, then what a frozen network, the extractor, makes of it."""

    TAG: ClassVar[str] = "features"
    picture: ImageInput
    extractor: Annotated[str, Matches(r"[0-9a-f]{64}")]  # SHA-256 of the TFLite file
    features: Annotated[int, Between(1, MAX_FEATURES)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (number of features,)."""
        return (self.features,)


RawInput = ImageInput | TableInput  # what a person has: pictures and rows
Input = RawInput | FeatureInput


@dataclass(frozen=True, slots=True)
class Augmentation(Record):
    """Random changes to training pictures, drawn anew for each example and epoch."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation_degrees: Annotated[float, Between(0, 180)] = 0.0  # uniform in plus or minus this
    shift: Annotated[float, Between(0, 0.5)] = 0.0  # fraction of the height and the width
    brightness: Annotated[float, Between(0, 1)] = 0.0  # pixel values times 1 plus or minus this


Loss = Literal["binary_crossentropy", "categorical_crossentropy", "focal", "mean_squared_error"]
Optimizer = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]


@dataclass(frozen=True, slots=True)
class ModelSpec(Record):
    """The contract of one trainable model.

    With the binary losses the network has one logit and two classes; with the others one logit for
    each class. Labels are indices into `classes`.
    """

    name: Name
    input: ImageInput | TableInput | FeatureInput
    classes: Annotated[tuple[Label, ...], Length(2, 4096)]
    tensors: Annotated[tuple[TensorSpec, ...], Length(1, 4096)]
    batch_size: Annotated[int, Between(1, 4096)] = 16
    loss: Loss = "binary_crossentropy"
    optimizer: Optimizer = "adam"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise RecordError("ModelSpec: a tensor is named twice")
        if len(set(self.classes)) != len(self.classes):
            raise RecordError("ModelSpec: a class is named twice")
        if self.parameters > MAX_PARAMETERS:
            raise RecordError(f"ModelSpec: {self.parameters} parameters exceed {MAX_PARAMETERS}")

    @property
    def parameters(self) -> int:
        """Number of float32 values that travel, statistics included."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical spec, hexadecimal."""
        return hashlib.sha256(dumps(self)).hexdigest()

    @property
    def raw_input(self) -> RawInput:
        """What an example is before any extractor."""
        return self.input.picture if isinstance(self.input, FeatureInput) else self.input

    @property
    def whole(self) -> ModelSpec:
        """Of the network that is released: with its extractor in it, so that it takes pictures."""
        return replace(self, input=self.raw_input)

    @property
    def trainable(self) -> ModelSpec:
        """The same with the tensors alone that gradients move."""
        return replace(self, tensors=tuple(t for t in self.tensors if t.role == "trainable"))

    def without(self, names: Collection[str]) -> ModelSpec:
        """The same with some tensors left out; raise `RecordError` for unknown ones, or if none is left."""
        if not names:
            return self
        if unknown := sorted(set(names) - {tensor.name for tensor in self.tensors}):
            raise RecordError(f"ModelSpec {self.name}: there is no tensor {unknown[0]!r}")
        return replace(self, tensors=tuple(t for t in self.tensors if t.name not in names))


@dataclass(frozen=True, slots=True)
class TrainableBundle:
    """A spec and the TFLite program that trains it."""

    spec: ModelSpec
    tflite: bytes

    def to_bytes(self) -> bytes:
        """The bundle file; its SHA-256 names the bundle on the wire."""
        spec = dumps(self.spec)
        return _HEADER.pack(_MAGIC, _VERSION, len(spec), len(self.tflite)) + spec + self.tflite

    @property
    def digest(self) -> str:
        """SHA-256 of the bundle file, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainableBundle:
        """Parse a bundle file; raise `SpecError` for anything else."""
        if len(data) < _HEADER.size:
            raise SpecError(f"not a training bundle: {len(data)} bytes")
        try:
            magic, version, spec_size, tflite_size = _HEADER.unpack_from(data)
            if magic != _MAGIC or version != _VERSION or data[5:8] != bytes(3):
                raise SpecError("not a version 1 training bundle")
            if spec_size > MAX_SPEC_BYTES or tflite_size > MAX_TFLITE_BYTES:
                raise SpecError("training bundle claims more than it may hold")
            if len(data) != _HEADER.size + spec_size + tflite_size:
                raise SpecError("training bundle is truncated or has bytes to spare")
            spec_end = _HEADER.size + spec_size
            spec = loads(ModelSpec, bytes(data[_HEADER.size : spec_end]), max_bytes=MAX_SPEC_BYTES)
        except RecordError as exc:
            raise SpecError(f"training bundle: {exc}") from exc
        return cls(spec=spec, tflite=bytes(data[spec_end:]))


def check_weights(weights: Weights, spec: ModelSpec) -> None:
    """Raise `SpecError` unless names, order, shapes and dtypes are the spec's and all values finite."""
    if list(weights) != [tensor.name for tensor in spec.tensors]:
        raise SpecError("weights differ from the spec in their names or order")
    for tensor in spec.tensors:
        array = weights[tensor.name]
        if array.dtype != np.float32 or array.shape != tensor.shape:
            raise SpecError(
                f"{tensor.name}: expected float32 {tensor.shape}, got {array.dtype} {array.shape}"
            )
        if not np.isfinite(array).all():
            raise SpecError(f"{tensor.name} holds a value that is not finite")


def pack_weights(weights: Weights) -> bytes:
    """All tensors one after the other as little-endian float32, row-major, no header."""
    return b"".join(map(_in_order, weights.values()))


def unpack_weights(data: bytes, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    """Inverse of `pack_weights` for this spec; raise `SpecError` for another length or NaN."""
    if len(data) != 4 * spec.parameters:
        raise SpecError(f"{len(data)} bytes of weights, expected {4 * spec.parameters}")
    flat = np.frombuffer(data, dtype="<f4").astype(np.float32)
    weights, start = {}, 0
    for tensor in spec.tensors:
        weights[tensor.name] = flat[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    check_weights(weights, spec)
    return weights


def weights_digest(weights: Weights) -> str:
    """SHA-256 of `pack_weights`, hexadecimal: how a version of the weights is named."""
    digest = hashlib.sha256()
    for array in weights.values():
        digest.update(_in_order(array))
    return digest.hexdigest()


def _in_order(array: npt.NDArray[np.float32]) -> memoryview:
    """Its values as little-endian float32, row-major; a copy only where they do not lie so already."""
    return np.ascontiguousarray(array, dtype="<f4").data
