"""xz archives, their blocks decoded in parallel.

Threaded xz (as pi-gen uses it) cuts a file into independent blocks and lists them in an index at the
end. Each block is wrapped as a stream of its own and given to the standard library, which lets go of
the interpreter lock while it decodes and checks the block's checksum.
Format: https://tukaani.org/xz/xz-file-format.txt
"""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import HashedFile

MAGIC, FOOTER_MAGIC = b"\xfd7zXZ\x00", b"YZ"
HEADER_BYTES = 12  # of a stream's header, and of its footer
MAX_INDEX_BYTES = 16 << 20  # 128 GB in blocks of 24 MiB have an index of 50 kB
MAX_BUFFERED = 256 << 20  # decoded bytes in memory: archives with larger blocks are decoded by one thread
MEMORY_LIMIT = 1 << 30  # of one decoder: xz -9 needs 65 MiB
PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """One block: its place in the file, its size without padding, its decoded size; all in bytes."""

    start: int
    unpadded: int
    decoded: int

    @property
    def stored(self) -> int:
        """With the padding to four bytes."""
        return _padded(self.unpadded)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the indexes say: the blocks in order, each with the flags of its stream."""

    blocks: tuple[tuple[Block, bytes], ...]

    @property
    def decoded(self) -> int:
        return sum(block.decoded for block, _flags in self.blocks)

    def affordable(self, wanted: int) -> int:
        """At most this many blocks in memory at a time; 1 means: decode the file as one stream."""
        largest = max((block.decoded + block.stored for block, _flags in self.blocks), default=0)
        return max(1, min(wanted, len(self.blocks), MAX_BUFFERED // max(1, largest)))


def read_layout(path: Path) -> Layout:
    """The blocks of all streams, from the indexes, without decoding anything.

    Raises:
        ImageError: not a whole xz file; a truncated one has no footer.
    """
    blocks: list[tuple[Block, bytes]] = []
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while end > 0:
                end, stream = _stream_before(file, end)
                blocks[:0] = stream
        except (ValueError, struct.error, IndexError) as exc:
            raise ImageError(f"{path} is a truncated or damaged xz file ({exc}); fetch it again") from exc
    return Layout(tuple(blocks))


def decode(file: HashedFile, layout: Layout) -> Iterator[bytes]:
    """The decoded bytes in order, in pieces. Raises `lzma.LZMAError`, `EOFError` or `ImageError`."""
    workers = len(os.sched_getaffinity(0))
    return _parallel(file, layout, workers) if layout.affordable(workers) > 1 else _serial(file)


def _parallel(file: HashedFile, layout: Layout, workers: int) -> Iterator[bytes]:
    waiting: deque[Future[bytes]] = deque()
    ahead = layout.affordable(2 * workers + 1)  # a worker that is late holds up nobody else
    with ThreadPoolExecutor(workers, "xz") as pool:
        try:
            for block, flags in layout.blocks:
                file.skip_to(block.start)
                waiting.append(pool.submit(_decode_block, file.read(block.stored), block, flags))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _serial(file: HashedFile) -> Iterator[bytes]:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
    rest = b""
    while data := rest or file.read(PIECE):
        if decoder.eof:  # another stream, or the padding between two
            rest = data.lstrip(b"\0")
            if rest:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
                data, rest = rest, b""
            else:
                continue
        yield decoder.decompress(data, PIECE)
        while not decoder.needs_input and not decoder.eof:
            yield decoder.decompress(b"", PIECE)
        rest = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the file ends in the middle of a stream")


def _decode_block(data: bytes, block: Block, flags: bytes) -> bytes:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
    decoded = decoder.decompress(b"".join((_header(flags), data, _tail(block, flags))), block.decoded + 1)
    if len(decoded) != block.decoded or not decoder.eof:
        raise EOFError(f"the block at byte {block.start} does not hold {block.decoded} bytes")
    return decoded


# ---- the container format ----


def _header(flags: bytes) -> bytes:
    return MAGIC + flags + struct.pack("<I", zlib.crc32(flags))


def _tail(block: Block, flags: bytes) -> bytes:
    """Index and footer of a stream with this one block."""
    index = b"\0\1" + _number(block.unpadded) + _number(block.decoded)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", zlib.crc32(index))
    sizes = struct.pack("<I", len(index) // 4 - 1) + flags
    return index + struct.pack("<I", zlib.crc32(sizes)) + sizes + FOOTER_MAGIC


def _stream_before(file: BinaryIO, end: int) -> tuple[int, list[tuple[Block, bytes]]]:
    """Where the stream that ends at `end` starts, and its blocks."""
    while end > 0 and _at(file, end - 4, 4) == bytes(4):  # padding between streams
        end -= 4
    crc, backward, flags, magic = struct.unpack("<II2s2s", _at(file, end - HEADER_BYTES, HEADER_BYTES))
    if magic != FOOTER_MAGIC or crc != zlib.crc32(struct.pack("<I", backward) + flags):
        raise ValueError("no footer at its end")
    size = (backward + 1) * 4
    if size > MAX_INDEX_BYTES:
        raise ValueError(f"an index of {size} bytes")
    index_start = end - HEADER_BYTES - size
    sizes = _read_index(_at(file, index_start, size))
    start = index_start - sum(_padded(unpadded) for unpadded, _decoded in sizes)
    if _at(file, start - HEADER_BYTES, HEADER_BYTES) != _header(flags):
        raise ValueError("header and footer do not fit")
    blocks = []
    for unpadded, decoded in sizes:
        blocks.append((Block(start, unpadded, decoded), flags))
        start += _padded(unpadded)
    return blocks[0][0].start - HEADER_BYTES if blocks else index_start - HEADER_BYTES, blocks


def _read_index(data: bytes) -> list[tuple[int, int]]:
    """Unpadded and decoded size of each block."""
    if data[0] != 0 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("the index is damaged")
    count, position = _read_number(data, 1)
    sizes = []
    for _ in range(count):
        unpadded, position = _read_number(data, position)
        decoded, position = _read_number(data, position)
        sizes.append((unpadded, decoded))
    return sizes


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    if position < 0:
        raise ValueError("it is too short")
    file.seek(position)
    return file.read(size)


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4


def _number(value: int) -> bytes:
    """xz's integers: seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_number(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(9):
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("the index is damaged")
