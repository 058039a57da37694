"""Large payloads on their way, a chunk at a time, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from compression.records import Between, Length
from edge_client.wire.blobs import Digest
from edge_client.wire.fields import Message, Number

Index = Annotated[int, Between(0, 1 << 20)]
Indices = Annotated[tuple[Index, ...], Length(1, 16)]


@dataclass(frozen=True, slots=True)
class Chunk(Message):
    """One chunk of a blob; the body is the data, checked against the digest in the manifest."""

    HAS_BODY: ClassVar[bool] = True
    blob: Digest
    index: Index


@dataclass(frozen=True, slots=True)
class BlobRequest(Message):
    """Please send these chunks again, on my own topic."""

    blob: Digest
    chunks: Indices


@dataclass(frozen=True, slots=True)
class Grant(Message):
    """An upload slot: please send these chunks of your payload now."""

    SIGNED: ClassVar[bool] = True
    task: Number
    blob: Digest
    chunks: Indices
