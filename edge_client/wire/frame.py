"""How one message becomes bytes: a fixed header, canonical JSON, an optional body and signature.

Little-endian::

    offset  size  field
    0       4     magic "BRBL"
    4       1     protocol version, 1
    5       1     message type (`edge_client.wire.messages`)
    6       1     flags: bit 0 = signed, the others zero
    7       1     zero
    8       4     H, length of the JSON, at most 131,072
    12      4     B, length of the body, at most 131,072 and 0 for types without a body
    16      H     canonical JSON of the message's fields (`compression.records`)
    16+H    B     body
    16+H+B  64    Ed25519 signature over topic, zero byte and all bytes before, when signed

There is one encoding of a message: any other bytes raise `WireError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from compression.records import RecordError, dumps, loads
from edge_client.wire.blobs import CHUNK_BYTES
from edge_client.wire.errors import WireError
from edge_client.wire.fields import Message
from edge_client.wire.messages import MESSAGE_TYPES, TYPE_NUMBERS
from edge_client.wire.signing import SIGNATURE_BYTES, Signs, Verifier
from edge_client.wire.topics import PROTOCOL_VERSION

MAX_JSON_BYTES = 128 * 1024
MAX_BODY_BYTES = CHUNK_BYTES
MAX_FRAME_BYTES = 16 + MAX_JSON_BYTES + MAX_BODY_BYTES + SIGNATURE_BYTES

_HEADER = struct.Struct("<4sBBBxII")
_MAGIC = b"BRBL"
_SIGNED = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and the bytes that came with it."""

    message: Message
    body: bytes = b""


def encode(message: Message, body: bytes = b"", *, topic: str = "", signer: Signs | None = None) -> bytes:
    """The bytes to publish; with a signer, signed for `topic`.

    Raises:
        WireError: the body or the fields are larger than a frame may be.
    """
    if signer and not message.SIGNED:
        raise WireError(f"{type(message).__name__} is a message that is never signed")
    fields = dumps(message)
    _check_sizes(type(message), len(fields), len(body))
    flags = _SIGNED if signer else 0
    number = TYPE_NUMBERS[type(message)]
    header = _HEADER.pack(_MAGIC, PROTOCOL_VERSION, number, flags, len(fields), len(body))
    frame = header + fields + body
    return frame + signer.sign(topic, frame) if signer else frame


def decode(data: bytes, *, topic: str = "", verifier: Verifier | None = None) -> Envelope:
    """Parse bytes from the network; with a verifier, only what the fleet's key signed for `topic`.

    Chunks are never signed: they are checked against the digest in a signed manifest.

    Raises:
        WireError: and nothing else, whatever the bytes.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise WireError(f"{len(data)} bytes exceed the largest frame, {MAX_FRAME_BYTES}")
    try:
        magic, version, kind, flags, json_bytes, body_bytes = _HEADER.unpack_from(data)
    except struct.error as exc:
        raise WireError(f"{len(data)} bytes are shorter than a frame's header") from exc
    if magic != _MAGIC or data[7] or flags & ~_SIGNED:
        raise WireError("not a Bramble frame")
    if version != PROTOCOL_VERSION:
        raise WireError(f"protocol version {version}, this side speaks {PROTOCOL_VERSION}")
    if kind not in MESSAGE_TYPES:
        raise WireError(f"unknown message type {kind}")
    cls = MESSAGE_TYPES[kind]
    _check_sizes(cls, json_bytes, body_bytes)
    end = _HEADER.size + json_bytes + body_bytes
    if len(data) != end + (SIGNATURE_BYTES if flags & _SIGNED else 0):
        raise WireError(f"{cls.__name__}: {len(data)} bytes do not match the lengths in the header")
    if flags & _SIGNED and not cls.SIGNED:
        raise WireError(f"{cls.__name__} is a message that is never signed")
    if verifier is not None and cls.SIGNED:
        if not flags & _SIGNED:
            raise WireError(f"{cls.__name__} is not signed")
        verifier.check(topic, data[:end], data[end:])
    try:
        message = loads(cls, data[_HEADER.size : end - body_bytes], max_bytes=MAX_JSON_BYTES)
    except RecordError as exc:
        raise WireError(str(exc)) from exc
    return Envelope(message, data[end - body_bytes : end])


def _check_sizes(cls: type[Message], json_bytes: int, body_bytes: int) -> None:
    if json_bytes > MAX_JSON_BYTES or body_bytes > MAX_BODY_BYTES:
        raise WireError(f"{cls.__name__}: {json_bytes} + {body_bytes} bytes are more than a frame may hold")
    if body_bytes and not cls.HAS_BODY:
        raise WireError(f"{cls.__name__} carries no body, got {body_bytes} bytes")
