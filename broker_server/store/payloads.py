"""What devices sent with their results, from the check to the end of the stage.

A small one is a row, written in the transaction of its result: a file of its own would be synced, and its
folder too, before each receipt. A large one is a file under its SHA-256.
"""

from __future__ import annotations

from broker_server.store.ledger import Ledger
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef, sha256

SCHEMA = "CREATE TABLE IF NOT EXISTS payloads (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;"
ROW_BYTES = 64 << 10  # up to about 100 KB SQLite is faster than files: sqlite.org/intern-v-extern-blob.html


class Payloads:
    """Of the stage at work, by content hash: in the ledger's file, and in `files` beside other artefacts."""

    def __init__(self, ledger: Ledger, files: BlobStore) -> None:
        self._db = ledger.connection
        self._db.executescript(SCHEMA)
        self._db.execute("PRAGMA secure_delete = ON")  # updates say something about their examples
        self._files = files

    def keep(self, ref: BlobRef, data: bytes) -> None:
        """Keep a checked payload; a row of the transaction at work, or a file that is durable at once."""
        if ref.size > ROW_BYTES:
            self._files.put(data)
        else:
            self._db.execute("INSERT OR IGNORE INTO payloads VALUES (?, ?)", (ref.digest, data))

    def read(self, ref: BlobRef) -> bytes:
        """The bytes of a payload; raise `BlobError` if it is not here or the disk gives others back."""
        row = self._db.execute("SELECT data FROM payloads WHERE digest = ?", (ref.digest,)).fetchone()
        if row is None:
            return self._files.read(ref)
        if sha256(row[0]) != ref.digest:
            raise BlobError(f"payload {ref.digest[:12]} was damaged in the ledger")
        return bytes(row[0])

    def clear(self) -> None:
        """A stage is closed: forget the rows. Files are removed with those of no use."""
        self._db.execute("DELETE FROM payloads")
