"""What the ledger says of the fleet's models, for people and programs; reads beside a running server."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from broker_server.config import ServerConfig
from broker_server.fleet import ledger_path
from broker_server.members import members
from broker_server.rollout.after_switch import doing_badly
from broker_server.rollout.machine import RolloutState
from broker_server.rollout.planning import RolloutError, plan_waves
from broker_server.rollout.registry import ModelRecord, Registry
from broker_server.rollout.standing import CURRENT
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.wire.rollout import ModelHealth
from provisioning.pki.signing import load_signing_key


class ModelsView:
    """One look at the models of a fleet."""

    def __init__(self, config: ServerConfig, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._store = ModelStore(ledger.connection)
        key = load_signing_key(Path(config.keys)).public_hex
        self._registry = Registry(self._store, config.fleet, key)
        self._held = Counter(hello.model_version for hello in ledger.devices().values())
        self._states = {state.version: state for state in self._store.rollouts(RolloutState)}

    @property
    def current(self) -> int:
        """The version that the fleet should have; 0 before the first."""
        return int(self._ledger.fact(CURRENT) or 0)

    def models(self) -> list[dict[str, Any]]:
        """Every version in order."""
        return [self._summary(record) for record in self._registry.all()]

    def details(self, version: int) -> dict[str, Any]:
        """One version with its record, and what every device says of it."""
        record = self._registry.get(version)
        state, release = self._states.get(version), record.release
        return self._summary(record) | {
            "signature": "good",  # or `get` had raised
            "digest": release.model.digest,
            "metrics": dict(record.metrics),
            "temperature": release.answering.temperature,
            "refuses_unlike": release.answering.likeness is not None,
            "gate": asdict(release.gate),
            "waves": [list(wave) for wave in state.waves] if state else [],
            "reason": state.reason if state else "",
            "sent_back": list(state.sent_back) if state else [],
            "doing_badly": doing_badly(self._config, self._ledger, self._store, version),
            "devices": self._devices(version, state),
        }

    def push_preview(self) -> dict[str, Any]:
        """Whom a new version would reach, wave by wave."""
        devices = members(self._ledger, self._config) - frozenset(self._store.pins())
        plan = self._config.rollout
        waves = plan_waves(self._registry.newest() + 1, devices, plan.canary, plan.stages)
        return {"version": self._registry.newest() + 1, "waves": [list(wave) for wave in waves]}

    def rollback_preview(self, version: int) -> dict[str, Any]:
        """From which version to which, and how many devices that touches."""
        newest = next(reversed(self._states.values()), None)
        if newest is not None and not newest.over:
            return {"from": newest.version, "to": newest.back_to, "devices": list(newest.offered)}
        if not self.current:
            raise RolloutError("there is no model to take back")
        back_to = version or self._registry.get(self.current).parent
        if not back_to:
            raise RolloutError(f"there is no model before {self.current} to go back to")
        return {"from": self.current, "to": back_to, "devices": sorted(self._ledger.devices())}

    def _summary(self, record: ModelRecord) -> dict[str, Any]:
        state = self._states.get(record.version)
        phase: str = state.phase if state else "not rolled out"
        if record.version == self.current:
            phase = "current"
        return {
            "version": record.version,
            "parent": record.parent,
            "created": record.created,
            "origin": record.origin,
            "recipe": record.recipe,
            "calibration": record.release.calibration,
            "size_bytes": record.release.model.size,
            "accuracy": record.metrics.get("accuracy"),
            "phase": phase,
            "devices_having_it": self._held[record.version],
        }

    def _devices(self, version: int, state: RolloutState | None) -> list[dict[str, Any]]:
        reports = self._ledger.release_reports(version)
        healths = self._store.healths(version, ModelHealth)
        pins, failed = self._store.pins(), state.failed if state else {}
        rows = []
        for device, hello in self._ledger.devices().items():
            report, health = reports.get(device), healths.get(device)
            rows.append(
                {
                    "device": device,
                    "has": hello.model_version,
                    "pinned": pins.get(device),
                    "outcome": report.outcome if report else None,
                    "reason": failed.get(device) or (report.reason if report else ""),
                    "accuracy": report.accuracy if report else None,
                    "latency_p50_ms": report.latency_p50_ms if report else None,
                    "answers": health.answers if health else None,
                    "errors": health.errors if health else None,
                    "accuracy_by_now": health.accuracy if health else None,
                }
            )
        return rows


@contextlib.contextmanager
def look_at_models(config: ServerConfig) -> Iterator[ModelsView]:
    """A look that needs no lock and disturbs no server; raise `LedgerError` before the first run."""
    ledger = Ledger(ledger_path(config), writer=False)
    try:
        yield ModelsView(config, ledger)
    finally:
        ledger.close()
