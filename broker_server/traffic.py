"""What a round costs each device on the wire, as PUBLISH packets; in memory only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker_server.publisher import Publisher
from broker_server.records import ClientRecord
from broker_server.rounds.machine import CloseStage
from broker_server.store.ledger import Ledger
from edge_client.wire.rounds import Result


class Traffic:
    """Bytes of the round at work: up as they come in, down as the publisher counts them."""

    def __init__(self, ledger: Ledger, publisher: Publisher) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._up: Counter[str] = Counter()

    def came(self, device: str, size: int) -> None:
        """A message of a device."""
        self._up[device] += size

    def up(self, device: str) -> int:
        """Of the round so far."""
        return self._up[device]

    def close(
        self, command: CloseStage, index: int, still_sending: Iterable[str]
    ) -> tuple[dict[str, ClientRecord], int]:
        """Each device's part with its bytes, and the bytes to all others; counting starts again.

        Args:
            command: which devices are in the stage.
            index: of the stage.
            still_sending: devices whose bytes belong to a later one.
        """
        everyone, own = self._publisher.take_bytes()
        results, answered = self._ledger.results(index), self._ledger.answer_times(index)
        records = {}
        for name in command.devices:
            began = self._ledger.stage_of(results[name].task)
            stale = 0 if began is None else index - began
            traffic = self._up[name], everyone + own[name]
            records[name] = _record(results[name], *traffic, stale, answered.get(name, 0.0))
        self._up = Counter({name: self._up[name] for name in still_sending})
        others = (*command.dropped, *command.released)
        return records, sum(everyone + own[name] for name in others)


def _record(
    result: Result, bytes_up: int, bytes_down: int, staleness: int, answered_s: float
) -> ClientRecord:
    training = result.training
    return ClientRecord(
        examples=training.examples if training else 0,
        loss=training.loss if training else 0.0,
        seconds=min(training.seconds, answered_s or training.seconds) if training else 0.0,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        health=result.health,
        staleness=staleness,
        variate_bytes=training.variate_bytes if training else 0,
        answered_s=answered_s,
    )
