"""Rows that are read again are parsed once, and no more is kept than fits."""

from __future__ import annotations

import pytest

from broker_server.store.parsed import Parsed
from compression.records import RecordError, dumps
from edge_client.wire.chunks import Grant
from edge_client.wire.rounds import Receipt

SHORT, OTHER = (dumps(Receipt(task=number, accepted=True)).decode() for number in (1, 2))


def test_the_same_text_is_the_same_record() -> None:
    parsed = Parsed()
    first = parsed(Receipt, SHORT)
    assert first == Receipt(task=1, accepted=True)
    assert parsed(Receipt, SHORT) is first


def test_who_reads_a_row_gets_the_record_that_was_written() -> None:
    parsed, written = Parsed(), Receipt(task=1, accepted=True)
    assert parsed.text(written) == SHORT
    assert parsed(Receipt, SHORT) is written
    assert parsed.text(Receipt(task=1, accepted=True)) == SHORT
    assert parsed(Receipt, SHORT) is written


def test_the_oldest_goes_when_it_is_full() -> None:
    parsed = Parsed(limit=len(SHORT) + len(OTHER) - 1)
    first = parsed(Receipt, SHORT)
    second = parsed(Receipt, OTHER)
    assert parsed(Receipt, OTHER) is second
    assert parsed(Receipt, SHORT) is not first


def test_what_was_read_last_stays() -> None:
    parsed = Parsed(limit=len(SHORT) + len(OTHER))
    first = parsed(Receipt, SHORT)
    parsed(Receipt, OTHER)
    parsed(Receipt, SHORT)
    parsed(Receipt, dumps(Receipt(task=3, accepted=True)).decode())
    assert parsed(Receipt, SHORT) is first


def test_a_text_is_of_one_class() -> None:
    parsed = Parsed()
    parsed(Receipt, SHORT)
    with pytest.raises(RecordError, match="Grant"):
        parsed(Grant, SHORT)
