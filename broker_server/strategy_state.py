"""What a strategy remembers from round to round, on disk: its own tensors, and the control variate's line.

The files are written before the ledger's transaction and count with it, as those of a version do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from broker_server.records import StrategyRecord, VersionRecord
from broker_server.store.ledger import Ledger
from broker_server.strategies import State, Strategy
from broker_server.strategies.scaffold import CONTROL_SLOT
from broker_server.versions import Versions
from compression.records import dumps, loads
from compression.spec import ModelSpec, Weights, pack_weights, unpack_weights
from compression.updates import CodecProfile
from edge_client.session.blobs import BlobStore
from edge_client.wire.variates import variate_digest
from edge_client.wire.weights import WeightsRef

FACT, LINE = "strategy", "control_line"


@dataclass(frozen=True, slots=True)
class NextState:
    """A state whose files are written and that does not count yet."""

    record: StrategyRecord
    control: tuple[VersionRecord, Weights] | None


class StrategyState:
    """The state of one strategy for one training bundle."""

    def __init__(
        self, ledger: Ledger, artefacts: BlobStore, strategy: Strategy, spec: ModelSpec, bundle_digest: str
    ) -> None:
        self._ledger = ledger
        self._artefacts = artefacts
        self._spec = spec.trainable
        self._control: Versions | None = None
        if strategy.CONTROL:
            self._control = Versions(ledger, artefacts, self._spec, variate_digest(bundle_digest), LINE)

    def begin(self) -> None:
        """Version 0 of the control variate is all zeros."""
        if self._control is not None:
            self._control.begin({t.name: np.zeros(t.shape, np.float32) for t in self._spec.tensors})

    def reference(self) -> WeightsRef | None:
        """The control variate for a manifest; None without one."""
        return self._control.reference() if self._control else None

    def read(self) -> State:
        """What the strategy handed back last; nothing at first."""
        slots = self._record().slots
        return {name: unpack_weights(self._artefacts.read(ref), self._spec) for name, ref in slots.items()}

    def write(self, before: State, after: State, profile: CodecProfile, round_number: int) -> NextState:
        """Write the next state's files; nothing counts before `commit`."""
        slots = {name: self._artefacts.put(pack_weights(tensors)) for name, tensors in after.items()}
        control = None
        if self._control is not None:
            change = _difference(after[CONTROL_SLOT], before.get(CONTROL_SLOT))
            control = self._control.advance(change, profile, round_number)
        return NextState(StrategyRecord(slots), control)

    def commit(self, following: NextState) -> None:
        """Make it the state; inside the transaction that closes the round."""
        if following.record.slots:
            self._ledger.set_fact(FACT, dumps(following.record).decode())
        if self._control is not None and following.control is not None:
            self._control.commit(*following.control)

    def files(self) -> list[str]:
        """Digests of the artefacts that are still needed."""
        kept = [ref.digest for ref in self._record().slots.values()]
        return kept + (self._control.files() if self._control else [])

    def _record(self) -> StrategyRecord:
        text = self._ledger.fact(FACT)
        return loads(StrategyRecord, text.encode(), max_bytes=1 << 20) if text else StrategyRecord({})


def _difference(after: Weights, before: Mapping[str, np.ndarray] | None) -> Weights:
    if before is None:
        return after
    return {name: np.asarray(array - before[name], np.float32) for name, array in after.items()}
