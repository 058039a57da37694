"""Every model that was made or pushed: what it came from, what it showed, and the release that carries it.

A record is signed with the fleet's key, so that a ledger somebody edited is noticed before its model is
published. The files lie beside the ledger under their SHA-256, apart from the artefacts of the rounds: those
are swept when nobody can step from them any more, and a rollback may come months later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from broker_server.rollout.planning import RolloutError
from broker_server.store.models import ModelRow, ModelStore
from broker_server.store.parsed import MAX_RECORD_BYTES
from compression.records import Between, Length, Record, dumps, loads
from edge_client.extractors import extractor_blobs
from edge_client.session.blobs import BlobStore
from edge_client.wire.errors import WireError
from edge_client.wire.rollout import Release
from edge_client.wire.signer import Signer
from edge_client.wire.signing import Verifier

MODELS = "models"  # folder of the files, in the state directory

Version = Annotated[int, Between(0, 1 << 53)]
Text = Annotated[str, Length(0, 500)]


@dataclass(frozen=True, slots=True)
class ModelRecord(Record):
    """One version.

    Attributes:
        version: from 1.
        parent: the fleet's version when this one was made; 0 for the first.
        created: seconds since 1970.
        origin: a run of the fleet, or the file that was pushed.
        recipe: by which it was made small.
        metrics: what was measured of it on the server, by name.
        release: what devices are told of it; its order and cohort are filled in when it is published.
    """

    version: Version
    parent: Version
    created: float
    origin: Text
    recipe: Text
    metrics: Mapping[str, float]
    release: Release


class Registry:
    """The models of one fleet. Without a signer it can be read and checked only."""

    def __init__(self, store: ModelStore, fleet: str, public_hex: str, signer: Signer | None = None) -> None:
        self._store = store
        self._subject = f"models/{fleet}"
        self._verifier = Verifier(public_hex)
        self._signer = signer

    def add(self, record: ModelRecord) -> None:
        """Sign and keep a new version."""
        if self._signer is None:
            raise RolloutError("the registry was opened to be read")
        signature = self._signer.sign(self._subject, dumps(record)).hex()
        self._store.keep_model(record.version, record, signature)

    def get(self, version: int) -> ModelRecord:
        """One version; raise `RolloutError` if there is none, or its signature is not the fleet's."""
        rows = self._store.models()
        if version not in rows:
            known = ", ".join(map(str, rows)) or "none"
            raise RolloutError(f"there is no model version {version}; known: {known}")
        return self._checked(rows[version])

    def all(self) -> list[ModelRecord]:
        """All versions in order, checked."""
        return [self._checked(row) for row in self._store.models().values()]

    def knows(self, version: int) -> bool:
        """Whether there is such a version."""
        return self._store.has_model(version)

    def newest(self) -> int:
        """The highest version; 0 without one."""
        return max(self._store.models(), default=0)

    def _checked(self, row: ModelRow) -> ModelRecord:
        data = row.text.encode()
        try:
            self._verifier.check(self._subject, data, bytes.fromhex(row.signature))
        except (WireError, ValueError) as exc:
            raise RolloutError(
                f"model {row.version} in the registry is not signed by the fleet's key"
            ) from exc
        return loads(ModelRecord, data, max_bytes=MAX_RECORD_BYTES)


def keep_files(release: Release, artefacts: BlobStore, models: BlobStore) -> None:
    """Copy what a release needs to where no sweep reaches it."""
    steps = (step.blob for step in release.weights.steps)
    frozen = extractor_blobs(artefacts, release.extractor)
    for ref in (release.model, release.bundle, release.weights.full, *steps, *frozen):
        if not models.has(ref):
            models.put(artefacts.read(ref))
