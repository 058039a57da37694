"""What a run trains with: the compiled program, the fleet's weights, the strategy, their evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import TypeVar

from broker_server.aggregation import Aggregation
from broker_server.config import ServerConfig
from broker_server.errors import RunError
from broker_server.frozen import CACHE, Frozen
from broker_server.program import Evaluator, compile_program, image_input
from broker_server.store.ledger import Ledger
from broker_server.store.payloads import Payloads
from broker_server.versions import Versions
from compression.records import dumps, loads
from compression.spec import TableInput, TrainableBundle, Weights
from edge_client.data import ColumnStatistics, DataSource, table_input
from edge_client.data.catalogue import order_classes
from edge_client.data.column_statistics import MAX_STATISTICS_BYTES
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.evaluation import MAX_CLASSES, EvaluationSums
from edge_client.wire.presence import Hello
from edge_client.wire.rounds import Result

Part = TypeVar("Part")


class RunProgram:
    """Compiled once in a run; a server that is started again finds it in the ledger.

    Attributes:
        frozen: of a transfer model.
    """

    def __init__(
        self, config: ServerConfig, ledger: Ledger, artefacts: BlobStore, payloads: Payloads
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._artefacts = artefacts
        self._payloads = payloads
        self.frozen = Frozen(config, ledger, artefacts)
        self._aggregation: Aggregation | None = None
        self._bundle: TrainableBundle | None = None
        self._ref: BlobRef | None = None
        self._versions: Versions | None = None
        self._evaluator: Evaluator | None = None
        if digest := ledger.fact("bundle"):
            data = artefacts.path(digest).read_bytes()
            self._adopt(TrainableBundle.from_bytes(data), BlobRef.of(data))

    @property
    def compiled(self) -> bool:
        """Whether there is one yet."""
        return self._bundle is not None

    @property
    def bundle(self) -> TrainableBundle:
        """The training program; raise `RunError` before there is one."""
        return _compiled(self._bundle)

    @property
    def bundle_ref(self) -> BlobRef:
        """The training program's manifest; raise `RunError` before there is one."""
        return _compiled(self._ref)

    @property
    def versions(self) -> Versions:
        """The fleet's weights; raise `RunError` before there are any."""
        return _compiled(self._versions)

    @property
    def aggregation(self) -> Aggregation:
        """The strategy at work; raise `RunError` before the program is compiled."""
        return _compiled(self._aggregation)

    @property
    def parameters(self) -> int:
        """Number of values in an update; 0 before the program is compiled."""
        return self._bundle.spec.parameters if self._bundle else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's classes; empty before the program is compiled."""
        return self._bundle.spec.classes if self._bundle else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the fleet's tables; empty for pictures and before they are known."""
        if self._bundle and isinstance(self._bundle.spec.input, TableInput):
            return self._bundle.spec.input.columns
        last = self._ledger.last_task()
        return last.task.columns if last else ()

    def evaluate(self, weights: Weights) -> EvaluationSums | None:
        """How weights do on the server's held-out examples; None without any, or for a part of a model."""
        if self._config.data.evaluation is None or self.aggregation.personal:
            return None
        if self._evaluator is None:
            self._evaluator = Evaluator(
                self.bundle,
                DataSource.parse(self._config.data.evaluation),
                extractor=self.frozen.read,
                cache=Path(self._config.state) / CACHE if self.frozen.manifest else None,
            )
        return self._evaluator(weights)

    def compile(self, hellos: Mapping[str, Hello]) -> None:
        """Compile the training program for the classes and columns that the fleet has."""
        input = self._table_input() if self._config.model.kind == "table" else image_input(self._config.model)
        classes = self._config.model.classes or order_classes(
            {label for hello in hellos.values() for label in hello.data.counts}
        )
        if not 2 <= len(classes) <= MAX_CLASSES:
            raise RunError(
                f"the devices have {len(classes)} classes between them, a model takes 2 to {MAX_CLASSES}"
            )
        made = self.frozen.compile(input, classes) or compile_program(self._config.model, input, classes)
        bundle, weights = made
        ref = self._artefacts.put(bundle.to_bytes())
        with self._ledger.transaction():
            self._ledger.set_fact("bundle", ref.digest)
            self._adopt(bundle, ref)
            self.versions.begin(weights)
            self.aggregation.state.begin()

    def merge_statistics(self, results: Mapping[str, Result]) -> None:
        """Of a fleet's tables, before the program is compiled for them."""
        parts = [
            loads(ColumnStatistics, self._payloads.read(result.payload), max_bytes=MAX_STATISTICS_BYTES)
            for result in results.values()
            if result.payload is not None
        ]
        self._ledger.set_fact("statistics", self._artefacts.put(dumps(reduce(add, parts))).digest)

    def files(self) -> list[str]:
        """Digests of the artefacts that are still needed."""
        kept = [digest for digest in (self._ledger.fact("bundle"), self._ledger.fact("statistics")) if digest]
        kept += [ref.digest for ref in self.frozen.blobs()]
        if self._versions is not None:
            kept += self._versions.files() + self.aggregation.state.files()
        return kept

    # ---- inside ----

    def _adopt(self, bundle: TrainableBundle, ref: BlobRef) -> None:
        self._bundle = bundle
        self._ref = ref
        self._versions = Versions(self._ledger, self._artefacts, bundle.spec, ref.digest)
        self._aggregation = Aggregation(
            self._config, self._ledger, self._artefacts, self._payloads, bundle.spec, ref.digest
        )

    def _table_input(self) -> TableInput:
        digest = self._ledger.fact("statistics")
        if digest is None:
            raise RunError("the column statistics are not merged yet")
        data = self._artefacts.path(digest).read_bytes()
        merged = loads(ColumnStatistics, data, max_bytes=MAX_STATISTICS_BYTES)
        return table_input(merged, self._config.model.scaling)


def _compiled(part: Part | None) -> Part:
    """What there is once the program is compiled."""
    if part is None:
        raise RunError("the training program is not compiled yet")
    return part
