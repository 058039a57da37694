"""An update as a file, carried by a person instead of a broker; byte by byte in docs/by-hand.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from compression.errors import BrambleError
from compression.records import Record, RecordError, dumps, loads
from edge_client.wire.blobs import Digest
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.fields import Number
from edge_client.wire.rounds import CodecName, TrainingReport
from edge_client.wire.topics import DeviceName

MAX_HEADER_BYTES = 64 * 1024
_MAGIC = b"BRUF\x01\x00\x00\x00"
_LENGTH = struct.Struct("<I")


class UpdateFileError(BrambleError, ValueError):
    """A file that is not an update, or one that does not fit the others."""


@dataclass(frozen=True, slots=True)
class UpdateHeader(Record):
    """What an update file says beside its payload.

    Attributes:
        site: who trained.
        bundle: digest of the training bundle.
        weights: digest of the weights it began from.
        round: that it is for; all updates of a round carry the same.
        codec: profile of the payload.
        evaluation: of the weights it began from, on the site's validation examples.
    """

    site: DeviceName
    bundle: Digest
    weights: Digest
    round: Number
    codec: CodecName
    training: TrainingReport
    evaluation: EvaluationSums | None = None


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """A header and a payload as `compression.updates` codes it."""

    header: UpdateHeader
    payload: bytes

    def to_bytes(self) -> bytes:
        """Magic, u32 length of the header, header as JSON, payload."""
        header = dumps(self.header)
        return _MAGIC + _LENGTH.pack(len(header)) + header + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> UpdateFile:
        """Inverse of `to_bytes`; raise `UpdateFileError` for anything else."""
        start = len(_MAGIC) + _LENGTH.size
        if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
            raise UpdateFileError("not an update file")
        end = start + _LENGTH.unpack_from(data, len(_MAGIC))[0]
        if end > min(len(data), start + MAX_HEADER_BYTES):
            raise UpdateFileError("an update file that is cut short")
        try:
            header = loads(UpdateHeader, data[start:end], max_bytes=MAX_HEADER_BYTES)
        except RecordError as exc:
            raise UpdateFileError(str(exc)) from exc
        return cls(header, data[end:])


def read_update(path: Path) -> UpdateFile:
    """Read an update file; raise `UpdateFileError` with its name."""
    try:
        return UpdateFile.from_bytes(path.read_bytes())
    except UpdateFileError as exc:
        raise UpdateFileError(f"{path}: {exc}") from exc
