"""The fleet's models led from the server: rollouts, rollbacks, pins, and what devices say of them.

The machine (`broker_server.rollout.machine`) decides; this module publishes what it commands, tells it what
devices report, and keeps both in the ledger, so that a server that is killed goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace

from broker_server.config import ServerConfig
from broker_server.publisher import Publisher
from broker_server.report.observer import Note, ReleaseResult, RunObserver
from broker_server.rollout.judge import problem_of
from broker_server.rollout.machine import (
    Abort,
    Added,
    Begun,
    Command,
    Event,
    Failed,
    Finished,
    Offer,
    Pause,
    Promote,
    RolloutState,
    Rules,
    Stopped,
    TakeBack,
    Taken,
    Tick,
    step,
)
from broker_server.rollout.making import ModelMaker
from broker_server.rollout.orders import MAX_ORDER_BYTES, Order
from broker_server.rollout.planning import RolloutError, plan_waves
from broker_server.rollout.registry import ModelRecord, Registry
from broker_server.rollout.sources import shorter_ways
from broker_server.stages import Stages
from broker_server.store.models import ModelStore
from compression.errors import BrambleError
from compression.records import loads
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import SessionError
from edge_client.wire.errors import WireError
from edge_client.wire.messages import Hello, ModelHealth, ModelSource, Release, ReleaseReport, WatchPlan
from edge_client.wire.signer import Signer

log = logging.getLogger(__name__)

CURRENT = "model_current"  # fact: the version that every device should have
LAST_ORDER = "model_order"  # fact: the highest order that was published
REPUBLISH_S = 10.0  # while reports are missing: a device answers again from what it remembers
LOOKS = 5  # that a device takes at its model in one observation


class Rollout:
    """The models of one fleet while its server runs."""

    def __init__(
        self,
        config: ServerConfig,
        stages: Stages,
        models: BlobStore,
        publisher: Publisher,
        observer: RunObserver,
        signer: Signer,
    ) -> None:
        self._config = config
        self._stages = stages
        self._models = models
        self._publisher = publisher
        self._observer = observer
        self._store = ModelStore(stages.ledger.connection)
        self._registry = Registry(self._store, config.fleet, signer.public_hex, signer)
        self._maker = ModelMaker(config, stages, models)
        self._rules = _rules(config)
        self._number = 0
        self._state: RolloutState | None = None
        self._release: Release | None = None  # as published last: of the rollout, or the rollback after it
        self._heard: set[str] = set()  # devices that have answered it
        self._published = 0.0
        self._deadline = 0.0  # for the answers to a rollback
        if (last := self._store.last_rollout(RolloutState, Release)) is not None:
            self._number, self._state, self._release = last
            log.info("model %d: %s", self._state.version, self._state.phase)

    # ---- where it stands ----

    @property
    def current(self) -> int:
        """The version that the fleet should have; 0 before the first."""
        return int(self._stages.ledger.fact(CURRENT) or 0)

    def busy(self, online: frozenset[str]) -> bool:
        """Whether the server is still needed: a wave is at work, or a rollback is not answered by all."""
        if self._state is None:
            return False
        if self._state.phase in ("offering", "observing"):
            return True
        if self._state.phase != "rolled-back" or time.time() > self._deadline:
            return False
        return bool((frozenset(self._state.offered) - self._heard) & online)

    # ---- what happens ----

    def begin(self, online: frozenset[str]) -> None:
        """Roll the newest weights out, unless that was done before a restart."""
        weights = self._stages.versions.latest.digest
        made = [record for record in self._registry.all() if record.release.weights.digest == weights]
        if not made:
            self._observer.note(Note(f"making the {self._config.release.recipe} model"))
            record = self._maker.from_weights(self._next_version(), self.current)
            self._registry.add(record)
            self._stages.ledger.keep_release(record.release)
            self._start(record, online)
        elif self._state is None:
            self._start(made[-1], online)

    def tick(self, online: frozenset[str]) -> None:
        """Carry out orders, let time pass, publish again what is not answered."""
        self._take_orders(online)
        self._feed(Tick(online))
        if self._release is not None and time.time() - self._published >= REPUBLISH_S and self.busy(online):
            self._publish()

    def on_hello(self, device: str, hello: Hello) -> None:
        """A device is here: is its model the one it should have?"""
        state = self._state
        if state is not None and not state.over and device not in self._store.pins():
            if all(device not in wave for wave in state.waves):
                self._feed(Added(device))
            if device in state.offered:
                self._tell(device)
                return
        self._put_right(device, hello)

    def on_report(self, device: str, report: ReleaseReport) -> None:
        """A device has decided."""
        if self._release is not None and report.order == self._release.order:
            self._on_fleet_report(device, report)
            return
        directive = self._store.directive(device, Release)
        if directive is None or report.order != directive.order:
            what = f"was offered model {report.version} by an old message: {report.reason}"
            log.warning("%s %s", device, what[:300])
            return
        self._stages.ledger.keep_release_report(device, report)
        self._note(f"{device}: model {report.version} {report.outcome} ({report.reason})")

    def on_health(self, device: str, health: ModelHealth) -> None:
        """How a model does on a device after the switch."""
        self._store.keep_health(device, health.version, health, time.time())
        state = self._state
        if state is None or health.version != state.version or device not in state.taken:
            return
        gate = self._stages.ledger.release_reports(health.version).get(device)
        rule, max_errors = self._config.release.gate, self._config.rollout.max_errors
        if problem := problem_of(health, gate, rule, max_errors=max_errors):
            self._note(f"{device}: model {health.version} does badly: {problem}", warn=True)
            self._feed(Failed(device, problem))

    def _on_fleet_report(self, device: str, report: ReleaseReport) -> None:
        state = self._state
        back = state is not None and state.phase == "rolled-back" and report.outcome == "rolled-back"
        if back and state is not None:  # kept as what became of the version that was taken back
            report = replace(report, version=state.version)
        self._stages.ledger.keep_release_report(device, report)
        if device not in self._heard:
            self._heard.add(device)
            self._observer.release_result(_result(device, report))
        if report.outcome == "activated":
            self._feed(Taken(device, report.reason))
        elif report.outcome == "refused":
            self._feed(Failed(device, report.reason))

    # ---- the machine ----

    def _start(self, record: ModelRecord, online: frozenset[str]) -> None:
        if self._state is not None and not self._state.over:
            superseded = replace(self._state, phase="superseded", reason=f"model {record.version} came")
            self._store.update_rollout(self._number, superseded)
        devices = frozenset(self._stages.ledger.devices()) - frozenset(self._store.pins())
        plan = self._config.rollout
        waves = plan_waves(record.version, devices, plan.canary, plan.stages, online=online)
        self._state = RolloutState(version=record.version, waves=waves, back_to=self.current)
        watch = WatchPlan(
            seconds=plan.observe_s * len(waves), every_s=max(0.05, plan.observe_s / LOOKS or 60.0)
        )
        self._release = replace(
            record.release, order=self._next_order(), sources=self._sources(record), watch=watch
        )
        self._number = self._store.keep_rollout(self._state, record.version, self._release)
        self._heard = set()
        sizes = ", ".join(str(len(wave)) for wave in waves)
        self._note(f"model {record.version} goes out to waves of {sizes} devices")
        self._feed(Begun())

    def _feed(self, event: Event) -> None:
        if self._state is None:
            return
        before = self._state
        self._state, commands = step(before, event, self._rules, time.time())
        if self._state != before:
            self._store.update_rollout(self._number, self._state)
        for command in commands:
            self._carry_out(command, self._state)

    def _carry_out(self, command: Command, state: RolloutState) -> None:
        match command:
            case Offer(devices):
                self._note(f"model {state.version} is offered to {_named(devices)}")
                self._publish()
            case TakeBack(devices, reason):
                self._note(f"model {state.version} is taken back: {reason}", warn=True)
                self._take_back(devices)
            case Stopped(reason):
                self._note(f"the rollout of model {state.version} waits: {reason}", warn=True)
            case Finished():
                self._stages.ledger.set_fact(CURRENT, str(state.version))
                self._note(f"model {state.version} is the fleet's: {len(state.taken)} devices have it")
                self._publish()

    def _take_back(self, devices: tuple[str, ...]) -> None:
        """A signed rollback to the version before; of the first version there is none."""
        if self._state is None:
            return
        if not self._state.back_to:
            self._release = None
            self._note("there is no earlier model: nobody else gets it, who has it keeps it", warn=True)
            return
        record = self._registry.get(self._state.back_to)
        self._release = replace(
            record.release, order=self._next_order(), rollback=True, sources=self._sources(record)
        )
        self._store.update_release(self._number, self._release)
        self._heard = set()
        self._deadline = time.time() + self._rules.decide_s
        self._publish()

    # ---- publishing ----

    def _publish(self) -> None:
        """To everyone whom it is for, retained; a lost connection is no loss, it is published again."""
        if self._release is None or self._state is None:
            return
        self._published = time.time()
        try:
            self._publisher.release(self._for_now(self._release, self._state), broadcast=self._is_wide())
        except (SessionError, WireError) as exc:
            log.info("%s; the release is published again later", exc)

    def _for_now(self, release: Release, state: RolloutState) -> Release:
        """With its cohort: the devices so far; nobody is named once everyone may have it."""
        everyone = state.phase == "complete" or (state.last and state.phase != "rolled-back")
        return replace(release, cohort=() if everyone and not self._store.pins() else state.offered)

    def _is_wide(self) -> bool:
        """Whether most devices want the model: to a few canaries its chunks go one by one."""
        offered = len(self._state.offered) if self._state else 0
        return 2 * offered > len(self._stages.ledger.devices())

    def _tell(self, device: str, release: Release | None = None) -> None:
        """The fleet's release, or another, on the device's own topic."""
        if release is None and self._release is not None and self._state is not None:
            release = self._for_now(self._release, self._state)
        if release is not None:
            self._publisher.announce(release)
            self._publisher.tell(device, release)

    def _put_right(self, device: str, hello: Hello) -> None:
        """Tell a device that has another version than it should; one that it refused it is not told again."""
        wanted = self._store.pins().get(device, self.current)
        if not wanted or hello.model_version == wanted:
            return
        report = self._stages.ledger.release_reports(wanted).get(device)
        if report is not None and report.outcome == "refused" and device not in self._store.pins():
            return
        directive = self._store.directive(device, Release)
        if directive is None or directive.version != wanted:
            record = self._registry.get(wanted)
            directive = replace(
                record.release,
                order=self._next_order(),
                sources=self._sources(record),
                rollback=wanted < hello.model_version,
                cohort=(device,),
            )
            self._store.keep_directive(device, directive)
            self._note(f"{device} has model {hello.model_version} and should have {wanted}")
        self._tell(device, directive)

    def _sources(self, record: ModelRecord) -> tuple[ModelSource, ...]:
        """Patches from the versions that devices have, the most common first."""
        held = Counter(hello.model_version for hello in self._stages.ledger.devices().values())
        files = []
        known = {other.version: other.release.model for other in self._registry.all()}
        for version, _ in held.most_common():
            if version in known and self._models.has(known[version]):
                files.append(self._models.read(known[version]))
        return shorter_ways(self._models.read(record.release.model), files, self._models.put)

    # ---- orders ----

    def _take_orders(self, online: frozenset[str]) -> None:
        for number, text in self._store.open_orders().items():
            try:
                answer = self._obey(loads(Order, text.encode(), max_bytes=MAX_ORDER_BYTES), online)
            except BrambleError as exc:
                answer = f"refused: {exc}"
            self._store.answer_order(number, answer)
            self._note(answer)

    def _obey(self, order: Order, online: frozenset[str]) -> str:
        match order.kind:
            case "push":
                return self._push(order, online)
            case "promote":
                return self._promote(order, online)
            case "rollback":
                return self._roll_back(order, online)
            case "pause":
                state = self._at_work()
                self._feed(Pause())
                return f"the rollout of model {state.version} is paused"
            case "pin" | "unpin":
                return self._pin(order)

    def _push(self, order: Order, online: frozenset[str]) -> str:
        self._need_nothing_at_work()
        if order.model is None:
            raise RolloutError("a push needs a model")
        record = self._maker.from_file(
            self._next_version(), self.current, order.model, order.origin, order.recipe
        )
        self._registry.add(record)
        self._start(record, online)
        return f"{order.origin} is model {record.version}, and its rollout has begun"

    def _promote(self, order: Order, online: frozenset[str]) -> str:
        if self._state is not None and not self._state.over and order.version in (0, self._state.version):
            version = self._state.version
            self._feed(Promote(everyone=order.everyone))
            return f"model {version} goes on"
        if not order.version:
            raise RolloutError("no rollout is at work: name the version to promote")
        self._need_nothing_at_work()
        self._start(self._registry.get(order.version), online)
        return f"the rollout of model {order.version} has begun again"

    def _roll_back(self, order: Order, online: frozenset[str]) -> str:
        if self._state is not None and not self._state.over:
            version = self._state.version
            self._feed(Abort("somebody said so"))
            return f"model {version} is taken back"
        back_to = order.version or (self._registry.get(self.current).parent if self.current else 0)
        if not back_to:
            raise RolloutError("there is no earlier model to go back to")
        self._registry.get(back_to)
        if self._state is None or self._state.phase != "complete":
            raise RolloutError(
                f"model {self.current} was never rolled out to the end: promote {back_to} instead"
            )
        left = self.current
        everyone = tuple(sorted(frozenset(self._stages.ledger.devices()) - frozenset(self._store.pins())))
        self._stages.ledger.set_fact(CURRENT, str(back_to))
        self._state = replace(
            self._state,
            waves=(everyone,),
            wave=0,
            phase="rolled-back",
            back_to=back_to,
            reason="somebody said so",
        )
        self._store.update_rollout(self._number, self._state)
        self._take_back(everyone)
        return f"the fleet goes back from model {left} to model {back_to}"

    def _pin(self, order: Order) -> str:
        hello = self._stages.ledger.devices().get(order.device)
        if hello is None:
            raise RolloutError(f"there is no device {order.device!r} in this fleet")
        if order.kind == "pin":
            self._registry.get(order.version)
        self._store.pin(order.device, order.version if order.kind == "pin" else None)
        self._put_right(order.device, hello)
        return (
            f"{order.device} is {f'pinned at model {order.version}' if order.kind == 'pin' else 'free again'}"
        )

    def _at_work(self) -> RolloutState:
        if self._state is None or self._state.over:
            raise RolloutError("no rollout is at work")
        return self._state

    def _need_nothing_at_work(self) -> None:
        if self._state is not None and not self._state.over:
            raise RolloutError(
                f"the rollout of model {self._state.version} is {self._state.phase}: promote it or roll it back first"
            )

    # ---- numbers and words ----

    def _next_version(self) -> int:
        """Above every version in use; the devices' own count, should the ledger have been lost."""
        hellos = self._stages.ledger.devices().values()
        return 1 + max(self._registry.newest(), *(hello.model_version for hello in hellos), 0)

    def _next_order(self) -> int:
        """Orders only grow, also after the ledger was lost: they are never below the time in seconds."""
        order = max(int(time.time()), int(self._stages.ledger.fact(LAST_ORDER) or 0) + 1)
        self._stages.ledger.set_fact(LAST_ORDER, str(order))
        return order

    def _note(self, text: str, *, warn: bool = False) -> None:
        log.info("%s", text)
        self._observer.note(Note(text[:1900], level="warning" if warn else "info"))


def _rules(config: ServerConfig) -> Rules:
    plan = config.rollout
    return Rules(
        decide_s=config.release.wait_s,
        grace_s=config.rounds.grace_s,
        observe_s=plan.observe_s,
        min_success=plan.min_success,
        max_failed=plan.max_failed,
        automatic=plan.automatic,
    )


def _result(device: str, report: ReleaseReport) -> ReleaseResult:
    return ReleaseResult(
        device=device,
        version=report.version,
        verdict=report.outcome,
        reason=report.reason if report.outcome == "refused" else "",
        accuracy=report.accuracy,
        latency_p50_ms=report.latency_p50_ms,
    )


def _named(devices: tuple[str, ...]) -> str:
    shown = ", ".join(devices[:5])
    return shown if len(devices) <= 5 else f"{shown} and {len(devices) - 5} more"
