"""What a device remembers of the requests to measure, and what it removes after a restart in one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from compression.records import Record, RecordError, dumps, loads
from edge_client.files import write_atomically
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.fields import Number
from edge_client.wire.latency import LatencyReport

MEMORY, MODEL = "memory.json", "model.tflite"  # in the measurements' folder
MAX_MEMORY_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Memory(Record):
    """The newest request that was carried out, what was said of it, and what is fetched for the next."""

    number: Number = 0
    report: LatencyReport | None = None
    file: BlobRef | None = None


class Memories:
    """A `Memory` on the disk.

    What an agent that was ended in a measurement left is removed: whoever asks again sends it again.
    """

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._path = folder / MEMORY
        self._memory = self._read()
        (folder / MODEL).unlink(missing_ok=True)
        if self._memory.file is not None:
            blobs.remove(self._memory.file.digest)

    @property
    def number(self) -> int:
        """Of the newest request that was carried out; 0 before the first."""
        return self._memory.number

    @property
    def report(self) -> LatencyReport | None:
        """What was said of it."""
        return self._memory.report

    def fetching(self, file: BlobRef | None) -> None:
        """This will be fetched; None for nothing."""
        self._keep(replace(self._memory, file=file))

    def concluded(self, report: LatencyReport) -> None:
        """A request was carried out."""
        self._keep(Memory(report.number, report))

    def _keep(self, memory: Memory) -> None:
        if memory != self._memory:
            write_atomically(self._path, dumps(memory))
            self._memory = memory

    def _read(self) -> Memory:
        with contextlib.suppress(OSError, RecordError):
            return loads(Memory, self._path.read_bytes(), max_bytes=MAX_MEMORY_BYTES)
        return Memory()
