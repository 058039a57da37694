"""Payloads of results: small ones in their result's transaction, large ones as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker_server.store.ledger import Ledger
from broker_server.store.payloads import ROW_BYTES, Payloads
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef

SMALL, LARGE = b"s" * ROW_BYTES, b"l" * (ROW_BYTES + 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture
def payloads(ledger: Ledger, tmp_path: Path) -> Payloads:
    return Payloads(ledger, BlobStore(tmp_path / "artefacts"))


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_what_is_kept_is_there_after_a_restart(
    ledger: Ledger, payloads: Payloads, tmp_path: Path, data: bytes
) -> None:
    for _ in range(2):  # two devices may send the same
        payloads.keep(BlobRef.of(data), data)
    ledger.close()
    again = Payloads(Ledger(tmp_path / "ledger.sqlite"), BlobStore(tmp_path / "artefacts"))
    assert again.read(BlobRef.of(data)) == data


def test_only_a_large_one_is_a_file(payloads: Payloads, tmp_path: Path) -> None:
    for data in (SMALL, LARGE):
        payloads.keep(BlobRef.of(data), data)
    assert [path.name for path in (tmp_path / "artefacts").iterdir()] == [BlobRef.of(LARGE).digest]


def test_a_transaction_that_fails_takes_its_payload_along(ledger: Ledger, payloads: Payloads) -> None:
    with pytest.raises(RuntimeError, match="the result"), ledger.transaction():
        payloads.keep(BlobRef.of(SMALL), SMALL)
        raise RuntimeError("the result cannot be written")
    with pytest.raises(BlobError, match="not here"):
        payloads.read(BlobRef.of(SMALL))


def test_a_row_that_the_disk_has_changed_is_not_taken_for_the_payload(
    ledger: Ledger, payloads: Payloads
) -> None:
    payloads.keep(BlobRef.of(SMALL), SMALL)
    ledger.connection.execute("UPDATE payloads SET data = ?", (b"other",))
    with pytest.raises(BlobError, match="damaged"):
        payloads.read(BlobRef.of(SMALL))


def test_a_stage_that_is_closed_leaves_no_rows(ledger: Ledger, payloads: Payloads) -> None:
    payloads.keep(BlobRef.of(SMALL), SMALL)
    payloads.clear()
    assert ledger.connection.execute("SELECT count(*) FROM payloads").fetchone() == (0,)
