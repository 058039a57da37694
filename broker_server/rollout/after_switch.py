"""How a model does on the devices after the switch: while its rollout goes on, and afterwards."""

from __future__ import annotations

import logging
from dataclasses import replace

from broker_server import clock
from broker_server.config import ServerConfig
from broker_server.incidents import Incidents
from broker_server.members import members
from broker_server.rollout.judge import problem_of
from broker_server.rollout.machine import ROUNDING, Abort, Failed, Heard
from broker_server.rollout.registry import Registry
from broker_server.rollout.standing import Standing
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.wire.rollout import ModelHealth

log = logging.getLogger(__name__)

TO_DO = "`models rollback` takes it from all devices, `models pin` from this one"


class AfterSwitch:
    """Keeps what devices say of their models, and judges it."""

    def __init__(
        self,
        config: ServerConfig,
        ledger: Ledger,
        store: ModelStore,
        registry: Registry,
        standing: Standing,
        incidents: Incidents,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._store = store
        self._registry = registry
        self._standing = standing
        self._incidents = incidents

    def heard(self, device: str, health: ModelHealth) -> Heard | Failed | Abort | None:
        """What follows for the model's rollout; `Abort` of one that is over: take the fleet's model back."""
        state = self._standing.state
        if not health.version and state is not None and device in state.taken:
            health = replace(health, version=state.version)  # damaged so that it cannot say which it is
        if not self._registry.knows(health.version):
            log.warning("%s tells of a model %d that this fleet never had", device, health.version)
            return None
        before = self._store.health(device, health.version, ModelHealth)
        self._store.keep_health(device, health.version, health, clock.now())
        problem = self._problem(device, health)
        state = self._standing.at_work
        if state is not None and health.version == state.version:
            return self._in_rollout(device, health, problem) if device in state.taken else None
        news = problem and not (before and self._problem(device, before))
        return self._afterwards(device, health, problem, bool(news)) if problem else None

    def _problem(self, device: str, health: ModelHealth) -> str | None:
        gate = self._ledger.release_reports(health.version).get(device)
        return problem_of(health, gate, self._config.release.gate, max_errors=self._config.rollout.max_errors)

    def _in_rollout(self, device: str, health: ModelHealth, problem: str | None) -> Heard | Failed:
        if not problem:
            return Heard(device)
        what = f"model {health.version} does badly: {problem}"
        self._incidents.note(device, what, "counted as failed in the rollout")
        return Failed(device, problem)

    def _afterwards(self, device: str, health: ModelHealth, problem: str, news: bool) -> Abort | None:
        if health.version != self._standing.current:
            return None  # it should have another one, and is told so
        automatic = self._config.rollout.afterwards == "rollback"
        if news:
            remedy = "taken back if more than `max_failed` do badly" if automatic else TO_DO
            self._incidents.note(device, f"model {health.version} does badly by now: {problem}", remedy)
        return self._too_many(health.version) if automatic else None

    def _too_many(self, version: int) -> Abort | None:
        """Why the fleet's model is taken back; None during another's rollout, or with none before it."""
        state = self._standing.state
        if state is None or (state.version, state.phase) != (version, "complete"):
            return None
        pinned = frozenset(self._store.pins())
        having = holders(self._config, self._ledger, version) - pinned
        bad = {
            name: why
            for name, why in doing_badly(self._config, self._ledger, self._store, version).items()
            if name not in pinned
        }
        share = len(bad) / max(1, len(having))
        if share <= self._config.rollout.max_failed + ROUNDING or not self._registry.get(version).parent:
            return None
        device, why = next(iter(bad.items()))
        return Abort(f"{len(bad)} of {len(having)} devices do badly with it by now; {device}: {why}"[:2000])


def doing_badly(config: ServerConfig, ledger: Ledger, store: ModelStore, version: int) -> dict[str, str]:
    """Which devices do badly with a version that they have, by their newest word, and why."""
    gates, healths = ledger.release_reports(version), store.healths(version, ModelHealth)
    rule, max_errors = config.release.gate, config.rollout.max_errors
    judged = {
        name: problem_of(healths[name], gates.get(name), rule, max_errors=max_errors)
        for name in sorted(holders(config, ledger, version) & frozenset(healths))
    }
    return {name: problem for name, problem in judged.items() if problem}


def holders(config: ServerConfig, ledger: Ledger, version: int) -> frozenset[str]:
    """Devices of the fleet that have a version, by their own word."""
    having = {name for name, hello in ledger.devices().items() if hello.model_version == version}
    return members(ledger, config) & having
