"""What becomes of a stage's results when it closes: one transaction, and what can wait until after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from broker_server.calibrating import Calibrating
from broker_server.codec_control import codec_now
from broker_server.cohort.choosing import Choosing
from broker_server.config import AUTO, ServerConfig
from broker_server.records import ClientRecord, RoundRecord
from broker_server.round_records import fine_tuning, with_evaluation, with_traffic
from broker_server.rounds.machine import CloseStage
from broker_server.run_plan import sparsity_of
from broker_server.run_program import RunProgram
from broker_server.store.ledger import Ledger
from broker_server.store.payloads import Payloads
from compression.records import dumps
from compression.sparsity import zero_share
from compression.updates import PROFILES
from edge_client.session.blobs import BlobStore
from edge_client.wire.rounds import Result

FINE_TUNING = "fine_tuning"  # a fact in the ledger
CLOSING_BYTES = "closing_bytes_up"  # fact: what devices sent in the stages after the last round
CLOSED = "stages_closed"  # fact: their number


class Closing:
    """Closes the stages of one run, one after the other."""

    def __init__(
        self,
        config: ServerConfig,
        ledger: Ledger,
        artefacts: BlobStore,
        payloads: Payloads,
        program: RunProgram,
        choosing: Choosing,
        calibrating: Calibrating,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._artefacts = artefacts
        self._payloads = payloads
        self._program = program
        self._choosing = choosing
        self._calibrating = calibrating

    @property
    def index(self) -> int:
        """The stage at work: the number of those that are closed."""
        return int(self._ledger.fact(CLOSED) or 0)

    def close(
        self, command: CloseStage, clients: Mapping[str, ClientRecord], dropped_bytes: int, now: float
    ) -> RoundRecord | None:
        """Aggregate a stage; the record of its round, or of the last one for an evaluation.

        What the next task does not need is left to `finish`.
        """
        results = self._ledger.results(self.index)
        record: RoundRecord | None = None
        if command.stage.kind == "train":
            record = replace(self._round_record(command, clients, now), dropped_bytes_down=dropped_bytes)
            record = self._close_round(command, record, results)
        else:
            with self._ledger.transaction():
                if command.stage.kind == "statistics":
                    self._program.merge_statistics(results)
                elif command.stage.kind == "finetune":
                    self._ledger.set_fact(FINE_TUNING, dumps(fine_tuning(results)).decode())
                    record = self._amend(
                        command.stage.round, lambda last: with_traffic(last, clients, dropped_bytes)
                    )
                elif command.stage.kind == "calibrate":
                    self._calibrating.close(results, command.dropped)
                else:
                    record = self._amend(
                        command.stage.round,
                        lambda last: with_traffic(with_evaluation(last, results), clients, dropped_bytes),
                    )
                if command.stage.kind != "statistics":
                    self._count_closing_bytes(clients)
                self._mark_closed(command)
        return record

    def finish(self, record: RoundRecord | None) -> RoundRecord | None:
        """What nobody waits for after `close`, which gave the record: the evaluation, files of no use."""
        record = record and self._evaluated(record)
        self._prune()
        return record

    def catch_up(self) -> RoundRecord | None:
        """Evaluate the newest weights if a server was killed before it came to that; their round, or None."""
        rounds = self._ledger.rounds(RoundRecord)
        last = rounds[max(rounds)] if rounds else None
        record = last and self._evaluated(last)
        return None if record is last else record

    def _evaluated(self, record: RoundRecord) -> RoundRecord:
        if record.evaluation is not None or record.version != self._program.versions.latest.version:
            return record
        evaluation = self._program.evaluate(self._program.versions.weights)
        amended = evaluation and self._amend(record.round, lambda last: replace(last, evaluation=evaluation))
        return amended or record

    def _count_closing_bytes(self, clients: Mapping[str, ClientRecord]) -> None:
        before = int(self._ledger.fact(CLOSING_BYTES) or 0)
        self._ledger.set_fact(CLOSING_BYTES, str(before + sum(part.bytes_up for part in clients.values())))

    def _round_record(
        self, command: CloseStage, clients: Mapping[str, ClientRecord], now: float
    ) -> RoundRecord:
        last = self._ledger.last_task()
        started = last.published if last else now
        return RoundRecord(
            round=command.stage.round,
            version=self._program.versions.latest.version + 1,
            started=started,
            seconds=max(0.0, now - started),
            clients=clients,
            dropped=dict(sorted(command.dropped.items())),
            released=command.released,
            selection=self._choosing.selection(),
            codec_up=last.task.training.codec if last and last.task.training else "",
            codec_down=codec_now(self._config.codec.down, self._ledger),
        )

    def _close_round(
        self, command: CloseStage, record: RoundRecord, results: Mapping[str, Result]
    ) -> RoundRecord:
        aggregation, index = self._program.aggregation, self.index
        profile = PROFILES[record.codec_down].for_steps
        step, state = aggregation.step(results, index, record.round, profile)
        sparsity = sparsity_of(self._config, record.round)
        aggregation.decoded.clear()
        version, weights = self._program.versions.advance(step, profile, record.round, sparsity)
        zeros = None if sparsity is None else zero_share(weights, self._program.bundle.spec.tensors)
        record = replace(record, sparsity=zeros)
        if AUTO in (self._config.codec.up, self._config.codec.down):  # chosen by it for the next task
            record = replace(record, evaluation=self._program.evaluate(weights))
        fresh = {name: each for name, each in results.items() if not aggregation.staleness(each, index)}
        with self._ledger.transaction():
            self._amend(record.round - 1, lambda before: with_evaluation(before, fresh))
            self._ledger.keep_round(record.round, record)
            self._program.versions.commit(version, weights)
            aggregation.state.commit(state)
            self._mark_closed(command)
        self._choosing.closed(record)
        return record

    def _mark_closed(self, command: CloseStage) -> None:
        self._ledger.close_task(command.number)
        self._payloads.clear()  # of no use once they are in the mean
        self._ledger.set_fact(CLOSED, str(self.index + 1))

    def _amend(self, number: int, change: Callable[[RoundRecord], RoundRecord]) -> RoundRecord | None:
        """Complete the record of a round that is closed, if there is one."""
        record = self._ledger.round(number, RoundRecord)
        if record is None:
            return None
        record = change(record)
        self._ledger.keep_round(number, record)
        return record

    def _prune(self) -> None:
        """Remove files of updates that are in the mean, and of versions that nobody can step from."""
        kept = self._program.files()
        results = self._ledger.results(self.index).values()  # of the next stage, which is under way
        kept += [result.payload.digest for result in results if result.payload is not None]
        if self._program.compiled:
            kept += self._calibrating.files()
        self._artefacts.keep_only(kept)
