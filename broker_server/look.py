"""What the ledger says about a fleet, for people and programs; reads beside a server that runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from broker_server.config import ServerConfig
from broker_server.fleet import ledger_path
from broker_server.records import RoundRecord
from broker_server.rollout.after_switch import doing_badly
from broker_server.rollout.standing import CURRENT
from broker_server.run_plan import stages_of
from broker_server.store.ledger import Ledger, LedgerError
from broker_server.store.models import ModelStore, server_runs


class FleetView:
    """One look at a fleet's ledger."""

    def __init__(self, config: ServerConfig, ledger: Ledger, *, running: bool) -> None:
        self._config = config
        self._ledger = ledger
        self._running = running
        self._store = ModelStore(ledger.connection)
        self._model = int(ledger.fact(CURRENT) or 0)
        self._records = list(ledger.rounds(RoundRecord).values())

    def status(self) -> dict[str, Any]:
        """Where the run is, and what went wrong last."""
        task = self._ledger.last_task()
        closed = int(self._ledger.fact("stages_closed") or 0)
        plan = stages_of(self._config)
        last = self._records[-1] if self._records else None
        return {
            "fleet": self._config.fleet,
            "server": "running" if self._running else "stopped",
            "strategy": self._config.strategy.TAG,
            "devices": len(self._ledger.devices()),
            "rounds": len(self._records),
            "rounds_planned": self._config.rounds.rounds,
            "stage": "finished" if closed >= len(plan) else plan[closed].kind,
            "task": task.task.number if task and not task.closed else None,
            "results": len(self._ledger.results(closed)),
            "version": last.version if last else 0,
            "accuracy": self.rounds()[-1]["accuracy"] if last else None,
            "model": self._model,
            "doing_badly": doing_badly(self._config, self._ledger, self._store, self._model),
            "incidents": [asdict(incident) for incident in self._ledger.incidents()[-5:]],
        }

    def rounds(self) -> list[dict[str, Any]]:
        """Every round in order: who took part, what came out, what it cost."""
        return [_round(record) for record in self._records]

    def round(self, number: int) -> dict[str, Any]:
        """One round with each device's part, and why it was asked or not.

        Raises:
            LedgerError: there is no such round.
        """
        found = [record for record in self._records if record.round == number]
        if not found:
            raise LedgerError(f"there is no round {number}; {len(self._records)} are done")
        [record] = found
        selection = record.selection
        return _round(record) | {
            "parts": {name: _part(record, name) for name in record.clients},
            "dropped": dict(record.dropped),
            "released": list(record.released),
            "rule": selection.rule if selection else "everyone",
            "chosen": dict(selection.chosen) if selection else {},
            "passed": dict(selection.passed) if selection else {},
        }

    def devices(self) -> list[dict[str, Any]]:
        """Every device that ever said hello, and its part in the rounds."""
        counted = Counter(name for record in self._records for name in record.clients)
        dropped = Counter(name for record in self._records for name in record.dropped)
        seen = self._ledger.last_seen()
        return [
            {
                "device": name,
                "board": hello.board,
                "architecture": hello.architecture,
                "runtime": hello.runtime,
                "cores": hello.cores,
                "memory_mb": hello.memory_mb,
                "examples": sum(hello.data.counts.values()),
                "classes": dict(hello.data.counts),
                "rounds": counted[name],
                "dropped": dropped[name],
                "model_version": hello.model_version,
                "temperature_c": hello.health.temperature_c,
                "throttled": hello.health.throttled,
                "free_disk_mb": hello.health.free_disk_mb,
                "last_hello": seen[name],
            }
            for name, hello in self._ledger.devices().items()
        ]


@contextmanager
def look_at_fleet(config: ServerConfig) -> Iterator[FleetView]:
    """Open the ledger for reading.

    Raises:
        LedgerError: no server has run yet.
    """
    path = ledger_path(config)
    with closing(Ledger(path, writer=False)) as ledger:
        yield FleetView(config, ledger, running=server_runs(path))


def _round(record: RoundRecord) -> dict[str, Any]:
    sums = record.evaluation or record.federated
    return {
        "round": record.round,
        "version": record.version,
        "started": record.started,
        "seconds": record.seconds,
        "clients": len(record.clients),
        "lost": len(record.dropped),
        "examples": sum(part.examples for part in record.clients.values()),
        "bytes_up": sum(part.bytes_up for part in record.clients.values()),
        "bytes_down": sum(part.bytes_down for part in record.clients.values()) + record.dropped_bytes_down,
        "codec_up": record.codec_up,
        "codec_down": record.codec_down,
        "accuracy": sums.accuracy if sums else None,
        "loss": sums.loss if sums else None,
        "auc": sums.auc if sums else None,
        "evaluated": "held-out" if record.evaluation else "devices" if record.federated else None,
    }


def _part(record: RoundRecord, name: str) -> dict[str, Any]:
    part = record.clients[name]
    return {
        "examples": part.examples,
        "loss": part.loss,
        "seconds": part.seconds,
        "bytes_up": part.bytes_up,
        "bytes_down": part.bytes_down,
        "staleness": part.staleness,
    }
