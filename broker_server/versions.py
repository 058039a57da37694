"""The fleet's weights: the current version, and the steps that lead to it.

Both directions are coded with error feedback. The server keeps what the coding of a step left out and
adds it to the next; what devices hold is therefore exactly what the server holds, bit for bit, and
its digest says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from broker_server.records import VersionLine, VersionRecord
from broker_server.store.ledger import Ledger
from compression.records import dumps, loads
from compression.sparsity import without_pruned
from compression.spec import (
    ModelSpec,
    Weights,
    check_weights,
    pack_weights,
    unpack_weights,
    weights_digest,
)
from compression.updates import CodecProfile, pack_model, unpack_model, with_feedback
from edge_client.session.blobs import BlobStore
from edge_client.versions import stepped
from edge_client.wire.blobs import BlobRef
from edge_client.wire.weights import DeltaRef, WeightsRef

STEP_MANIFEST_BYTES = 330  # one more step in the manifest that every device reads
STEPS_ANNOUNCED = 2  # a device that missed one round steps along; one that missed more takes the whole


class Versions:
    """The line of versions of one training bundle.

    The weights' line has a table in the ledger. Another one, of a control variate, has a name and is kept as
    a fact, the newest few versions of it.
    """

    def __init__(
        self, ledger: Ledger, artefacts: BlobStore, spec: ModelSpec, bundle_digest: str, line: str = ""
    ) -> None:
        self._ledger = ledger
        self._artefacts = artefacts
        self._spec = spec
        self._bundle_digest = bundle_digest
        self._line = line
        self._records = self._read()
        self._weights: Weights | None = None
        self._owed: tuple[BlobRef, Weights] | None = None  # the residual that was written last

    @property
    def latest(self) -> VersionRecord:
        """The newest version."""
        return self._records[max(self._records)]

    @property
    def first(self) -> VersionRecord:
        """Version 0, before any training."""
        return self._records[min(self._records)]

    @property
    def weights(self) -> Weights:
        """The newest version's weights, as every up-to-date device holds them."""
        if self._weights is None:
            self._weights = unpack_model(self._artefacts.read(self.latest.full), self._spec.tensors)
        return self._weights

    def begin(self, weights: Weights) -> None:
        """Make version 0, unless a run before this one has got further."""
        if self._records:
            return
        check_weights(weights, self._spec)
        full = self._artefacts.put(pack_model(weights))
        self.commit(VersionRecord(version=0, digest=weights_digest(weights), full=full), weights)

    def advance(
        self, delta: Weights, profile: CodecProfile, round_number: int, sparsity: float | None = None
    ) -> tuple[VersionRecord, Weights]:
        """Code a step by `delta` and write its files; nothing counts before `commit`.

        With `sparsity` the weights end with so many zeros, and what was zero stays so.
        """
        before = self.latest
        encoded, residual = with_feedback(
            delta if sparsity is None else self._without_pruned(delta, self.weights),
            self._residual(before),
            profile,
            model_digest=self._bundle_digest,
            round_number=round_number,
            tensors=self._spec.tensors,
        )
        weights = stepped(self.weights, encoded.sent, self._spec, sparsity)
        check_weights(weights, self._spec)
        if sparsity is not None:
            residual = self._without_pruned(residual, weights)
        digest = weights_digest(weights)
        step = DeltaRef(
            from_digest=before.digest,
            to_digest=digest,
            blob=self._artefacts.put(encoded.payload),
            sparsity=sparsity,
        )
        self._owed = self._artefacts.put(pack_weights(residual)), residual
        record = VersionRecord(
            version=before.version + 1,
            digest=digest,
            full=self._artefacts.put(pack_model(weights, quick=True)),  # for who has missed rounds
            step=step,
            residual=self._owed[0],
        )
        return record, weights

    def files(self) -> list[str]:
        """Digests of the artefacts that are still needed."""
        newest = sorted(self._records, reverse=True)[: STEPS_ANNOUNCED + 1]
        kept = [self._records[version] for version in newest] + [self.first]
        refs = [ref for record in kept for ref in (record.full, record.residual) if ref]
        refs += [record.step.blob for record in kept if record.step]
        return [ref.digest for ref in refs]

    def commit(self, record: VersionRecord, weights: Weights) -> None:
        """Make a version the newest one."""
        records = self._records | {record.version: record}
        if self._line:
            records = {version: records[version] for version in sorted(records)[-STEPS_ANNOUNCED - 1 :]}
            self._ledger.set_fact(self._line, dumps(VersionLine(tuple(records.values()))).decode())
        else:
            self._ledger.keep_version(record.version, record)
        self._records = records
        self._weights = weights

    def reference(self) -> WeightsRef:
        """The newest version for a manifest: whole, and as steps while these are the shorter way."""
        latest = self.latest
        steps: list[DeltaRef] = []
        size = 0
        for version in sorted(self._records, reverse=True)[:STEPS_ANNOUNCED]:
            step = self._records[version].step
            size += STEP_MANIFEST_BYTES + (step.blob.size if step else 0)
            if step is None or size >= STEP_MANIFEST_BYTES + latest.full.size:
                break
            steps.insert(0, step)
        return WeightsRef(version=latest.version, digest=latest.digest, full=latest.full, steps=tuple(steps))

    def _read(self) -> dict[int, VersionRecord]:
        if not self._line:
            return self._ledger.versions(VersionRecord)
        if (text := self._ledger.fact(self._line)) is None:
            return {}
        line = loads(VersionLine, text.encode(), max_bytes=1 << 20)
        return {record.version: record for record in line.versions}

    def _without_pruned(self, values: Weights, weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
        return without_pruned(values, weights, self._spec.tensors)

    def _residual(self, record: VersionRecord) -> Weights | None:
        if record.residual is None:
            return None
        if self._owed is not None and self._owed[0] == record.residual:
            return self._owed[1]
        return unpack_weights(self._artefacts.read(record.residual), self._spec)
