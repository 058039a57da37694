"""The fields of fixed size at the start of an update's payload."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from compression.updates.errors import CodecError
from compression.updates.sections import Reader

_FIELDS = struct.Struct("<8sIIIBBBH")


@dataclass(frozen=True, slots=True)
class Header:
    """What a reader must know before the first section.

    Attributes:
        model: the first 8 bytes of the SHA-256 of the model's bundle.
        round_number: the round the update was coded for.
        parameters: of the model.
        kept: values of the pruned tensors that are sent.
        bits: of a kept value; 32 in an exact update.
        whole_mantissa: bits of mantissa of tensors that are sent whole.
        statistic_mantissa: bits of mantissa of statistics.
        block: kept values that share a scale.
    """

    model: bytes
    round_number: int
    parameters: int
    kept: int
    bits: int
    whole_mantissa: int
    statistic_mantissa: int
    block: int

    def pack(self) -> bytes:
        """The fields as bytes."""
        return _FIELDS.pack(
            self.model,
            self.round_number,
            self.parameters,
            self.kept,
            self.bits,
            self.whole_mantissa,
            self.statistic_mantissa,
            self.block,
        )

    @classmethod
    def read(cls, reader: Reader) -> Header:
        """The fields that come next."""
        return cls(*_FIELDS.unpack(reader.fields(_FIELDS.size)))


def model_id(model_digest: str) -> bytes:
    """The first 8 bytes: enough against mix-ups; against forgery the message around it is signed."""
    try:
        digest = bytes.fromhex(model_digest)
    except ValueError as exc:
        raise CodecError(f"model digest {model_digest[:80]!r} is not hexadecimal") from exc
    if len(digest) != 32:
        raise CodecError(f"model digest has {len(digest)} bytes, SHA-256 has 32")
    return digest[:8]
