"""The frame of a payload: header, length-prefixed sections, CRC32. All little-endian."""

from __future__ import annotations

import struct
import zlib

from compression.updates.errors import CodecError

VERSION = 1
_PREFIX = struct.Struct("<4sBB")
_CRC = struct.Struct("<I")


class Writer:
    """Collects a payload."""

    def __init__(self, magic: bytes, kind: int) -> None:
        self._parts = [_PREFIX.pack(magic, VERSION, kind)]

    def fields(self, packed: bytes) -> None:
        """Header fields of fixed size."""
        self._parts.append(packed)

    def section(self, data: bytes) -> None:
        """Bytes that say how long they are."""
        self._parts += (_varint(len(data)), data)

    def finish(self) -> bytes:
        """The payload, closed by the checksum of all before."""
        checksum = 0
        for part in self._parts:
            checksum = zlib.crc32(part, checksum)
        return b"".join((*self._parts, _CRC.pack(checksum)))


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last byte have the top bit set (LEB128)."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


class Reader:
    """Takes a payload apart in the order in which it was written; never copies a section."""

    def __init__(self, payload: bytes, magic: bytes, limit: int) -> None:
        if len(payload) > limit:
            raise CodecError(f"{len(payload)} bytes are more than this model's {limit}")
        if len(payload) < _PREFIX.size + _CRC.size or payload[:4] != magic:
            raise CodecError(f"payload does not begin with {magic!r}")
        self._data = memoryview(payload)[: -_CRC.size]
        if _CRC.unpack_from(payload, len(self._data))[0] != zlib.crc32(self._data):
            raise CodecError("checksum differs: the payload was damaged")
        _, version, self.kind = _PREFIX.unpack_from(self._data)
        if version != VERSION:
            raise CodecError(f"payload has version {version}, this is version {VERSION}")
        self._at = _PREFIX.size

    def fields(self, size: int) -> memoryview:
        """So many bytes of the header."""
        if size > len(self._data) - self._at:
            raise CodecError("payload ends within its header or a section")
        self._at += size
        return self._data[self._at - size : self._at]

    def section(self) -> memoryview:
        """The next section."""
        length = 0
        for shift in range(0, 35, 7):
            byte = self.fields(1)[0]
            length |= (byte & 127) << shift
            if byte < 128:
                return self.fields(length)
        raise CodecError("a section's length has more than 5 bytes")

    def end(self) -> None:
        """Raise `CodecError` if anything is left."""
        if self._at != len(self._data):
            raise CodecError(f"{len(self._data) - self._at} bytes after the last section")
