"""Records of rows that are read again and again, parsed once.

A row's text says all that a record holds, so equal texts have equal records, whatever became of the row.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar, cast

from compression.records import Record, dumps, loads

MAX_RECORD_BYTES = 64 << 20
KEPT_CHARACTERS = 8 << 20  # of texts; their records take up to seven times as much
R = TypeVar("R", bound=Record)


class Parsed:
    """The records that were asked for last, as many as fit."""

    def __init__(self, limit: int = KEPT_CHARACTERS) -> None:
        self._limit = limit
        self._records: OrderedDict[tuple[type[Record], str], Record] = OrderedDict()
        self._size = 0

    def __call__(self, cls: type[R], text: str) -> R:
        """The record of a text; raise `RecordError` for one that is not canonical JSON of `cls`."""
        key = cls, text
        if (known := self._records.get(key)) is not None:
            self._records.move_to_end(key)
            return cast(R, known)
        record = loads(cls, text.encode(), max_bytes=MAX_RECORD_BYTES)
        self._keep(text, record)
        return record

    def text(self, record: Record) -> str:
        """The text of a record that becomes a row; whoever reads the row gets the record."""
        text = dumps(record).decode()
        if (type(record), text) not in self._records:
            self._keep(text, record)
        return text

    def _keep(self, text: str, record: Record) -> None:
        self._records[type(record), text] = record
        self._size += len(text)
        while self._size > self._limit:
            (_, oldest), _ = self._records.popitem(last=False)
            self._size -= len(oldest)
