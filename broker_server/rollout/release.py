"""The fleet's models led from the server: rollouts, rollbacks, pins, and what devices say of them.

The machine (`broker_server.rollout.machine`) decides; this module tells it what devices report and has done
what it commands. Both are kept (`.standing`), so that a server that is killed goes on where it was; what the
fleet is told is in `.publication`, what one device is told by itself in `.directions`.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace

from broker_server import clock
from broker_server.config import ServerConfig
from broker_server.incidents import Incidents
from broker_server.members import members
from broker_server.publisher import Publisher
from broker_server.report.observer import Note, ReleaseResult, RunObserver
from broker_server.rollout.after_switch import AfterSwitch
from broker_server.rollout.directions import Directions
from broker_server.rollout.machine import (
    Abort,
    Added,
    Begun,
    Command,
    Event,
    Failed,
    Finished,
    Gone,
    Heard,
    Offer,
    RolloutState,
    Rules,
    SendBack,
    Stopped,
    TakeBack,
    Taken,
    Tick,
    step,
)
from broker_server.rollout.making import ModelMaker
from broker_server.rollout.offers import Offers
from broker_server.rollout.planning import RolloutError, plan_waves, waves_text
from broker_server.rollout.publication import Publication
from broker_server.rollout.registry import ModelRecord, Registry
from broker_server.rollout.standing import Standing
from broker_server.stages import Stages
from broker_server.store.models import ModelStore
from edge_client.session.blobs import BlobStore
from edge_client.wire.presence import Hello
from edge_client.wire.rollout import ModelHealth, Release, ReleaseReport, WatchPlan
from edge_client.wire.signer import Signer

log = logging.getLogger(__name__)

COUNT_S = 10.0  # between looks at who still counts
LOOKS = 5  # that a device takes at its model in one observation
SHORTEST_LOOK_S = 0.1
MAX_CLAIMED = 1_000_000  # version that a device is believed to have: above it the numbers would soon run out


class Rollout:
    """The models of one fleet while its server runs.

    Attributes:
        store, registry, maker: the models' tables, their signed records, and how new ones are made.
    """

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
        self._ledger = stages.ledger
        self._stages = stages
        self._observer = observer
        self._incidents = Incidents(stages.ledger, observer)
        self.store = ModelStore(stages.ledger.connection)
        self.registry = Registry(self.store, config.fleet, signer.public_hex, signer)
        self.maker = ModelMaker(config, stages, models)
        self._offers = Offers(stages.ledger, self.store, self.registry, models, publisher)
        self._rules = _rules(config)
        self._standing = Standing(stages.ledger, self.store)
        parts = stages.ledger, self.store, self._offers, self._standing
        self._publication = Publication(*parts, self._rules)
        self._directions = Directions(*parts, self._rules.decide_s, self.note)
        self._after_switch = AfterSwitch(
            config, stages.ledger, self.store, self.registry, self._standing, self._incidents
        )
        self._greeted: set[str] = set()  # devices that were looked at since this server began
        self._counted = 0.0

    # ---- where it stands ----

    @property
    def current(self) -> int:
        """The version that the fleet should have; 0 before the first."""
        return self._standing.current

    @property
    def state(self) -> RolloutState | None:
        """The newest rollout; None before the first."""
        return self._standing.state

    @property
    def at_work(self) -> RolloutState | None:
        """The newest rollout if it is not over."""
        return self._standing.at_work

    def busy(self, online: frozenset[str]) -> bool:
        """Whether the server is still needed: a wave is at work, or somebody has not answered."""
        return self._directions.awaited(online) or self._publication.awaited(online)

    # ---- what somebody wants ----

    def begin(self, online: frozenset[str]) -> None:
        """Roll the newest weights out, unless that was done before a restart."""
        weights = self._stages.versions.latest.digest
        made = [record for record in self.registry.all() if record.release.weights.digest == weights]
        if not made:
            self._observer.note(Note(f"making the {self._config.release.recipe} model"))
            record = self.maker.from_weights(self.next_version(), self.current)
            self.registry.add(record)
            made.append(record)
        elif any(state.version == made[-1].version for state in self.store.rollouts(RolloutState)):
            return
        try:
            self.start(made[-1], online)
        except RolloutError as exc:  # a canary that is no device: the run is done all the same
            self.note(f"model {made[-1].version} is not rolled out: {exc}", warn=True)

    def start(self, record: ModelRecord, online: frozenset[str]) -> None:
        """Begin the rollout of a version; one at work is left where it is."""
        self._standing.supersede(record.version)
        self.store.forget_healths(record.version)
        here = members(self._ledger, self._config, present=online)
        devices = here - frozenset(self.store.pins())
        plan = self._config.rollout
        waves = plan_waves(record.version, devices, plan.canary, plan.stages, online=online)
        every_s = max(SHORTEST_LOOK_S, plan.observe_s / LOOKS)
        watch = WatchPlan(seconds=plan.observe_s * len(waves), every_s=every_s)
        state = RolloutState(version=record.version, waves=waves, back_to=self.current)
        self._standing.begin(state, self._offers.make(record, watch=watch))
        self._publication.begin()
        self.note(f"model {record.version} goes out to {waves_text(waves)}")
        self.feed(Begun())

    def take_back(self, back_to: int, reason: str) -> None:
        """Take the fleet's version back from every device, after its rollout."""
        everyone = tuple(sorted(frozenset(self._ledger.devices()) - frozenset(self.store.pins())))
        state = RolloutState(
            version=self.current,
            waves=(everyone,),
            back_to=back_to,
            phase="rolled-back",
            since=clock.now(),
            reason=reason,
        )
        release = self._offers.back(self.current, back_to, everyone)
        with self.all_or_nothing():
            self._standing.begin(state, release)
            self._standing.settle(back_to)
        self._publication.expect_answers()

    def put_right(self, device: str, hello: Hello) -> None:
        """Tell a device that has another version than it should."""
        self._directions.put_right(device, hello)

    def next_version(self) -> int:
        """Above every version in use; the devices' own count, should the ledger have been lost."""
        held = (hello.model_version for hello in self._ledger.devices().values())
        return 1 + max(self.registry.newest(), *(version for version in held if version <= MAX_CLAIMED), 0)

    def note(self, text: str, *, warn: bool = False) -> None:
        """Tell whoever watches the run."""
        log.info("%s", text)
        self._observer.note(Note(text[:1900], level="warning" if warn else "info"))

    def all_or_nothing(self) -> AbstractContextManager[None]:
        """What is done inside counts as a whole, in the ledger and here; what was published is out."""
        return self._standing.all_or_nothing()

    # ---- what happens ----

    def tick(self, online: frozenset[str]) -> None:
        """Let time pass; publish again what is not answered."""
        self._publication.say_the_end()
        for device in online - self._greeted:  # a restarted server hears no hello of those that stayed
            if (hello := self.store.hello(device)) is not None:
                self.on_hello(device, hello)
        self._count_out(online)
        self.feed(Tick(online))
        if self._publication.due and self.busy(online):
            self._publication.publish()

    def _count_out(self, online: frozenset[str]) -> None:
        """Devices that were revoked meanwhile, or are gone for good, hold no rollout up."""
        if self.at_work is None or clock.now() - self._counted < COUNT_S:
            return
        self._counted = clock.now()
        here = members(self._ledger, self._config, present=online)
        for device in [name for wave in self.at_work.waves for name in wave if name not in here]:
            self.note(f"{device} counts no more: revoked, or not seen for {self._config.absent_days:g} days")
            self.feed(Gone(device))

    def on_hello(self, device: str, hello: Hello) -> None:
        """A device is here: is its model the one it should have?"""
        self._greeted.add(device)
        state = self.at_work
        if (ended := self._directions.sent_back(device)) is not None:
            if hello.model_version != ended.back_to:
                self._directions.send_back(device, ended)
            return
        if state is not None and device not in self.store.pins():
            if all(device not in wave for wave in state.waves):
                self.feed(Added(device))
            if self._publication.to_one(device):
                return
        self.put_right(device, hello)

    def on_report(self, device: str, report: ReleaseReport) -> None:
        """A device has decided."""
        self._note_active(device, report.active_version)
        directive, release = self._directions.last(device), self._standing.release
        # to a device that was told more since, the fleet's release is a replay
        newer = directive is not None and directive.order > report.order
        if release is not None and _answers(report, release) and not newer:
            self._on_fleet_report(device, report)
        elif directive is not None and _answers(report, directive):
            self._directions.answered(device, report)
            ended = self.state if self.state is not None and self.state.phase == "rolled-back" else None
            if ended is not None and report.active_version == ended.back_to:
                self._publication.answered(device)
        else:
            log.warning("%s answers an old offer of model %d: %s", device, report.version, report.reason)

    def _note_active(self, device: str, version: int) -> None:
        """What a device has now, without waiting for its next hello."""
        hello = self.store.hello(device)
        if hello is not None and hello.model_version != version:
            self._ledger.keep_hello(device, replace(hello, model_version=version), clock.now())

    def on_health(self, device: str, health: ModelHealth) -> None:
        """How a model does on a device after the switch."""
        match self._after_switch.heard(device, health):
            case Abort(reason):
                parent = self.registry.get(self.current).parent
                what = f"taken back after its rollout: {reason}"
                self._incidents.note(f"model {self.current}", what, f"the fleet goes back to model {parent}")
                self.take_back(parent, reason)
            case Heard() | Failed() as event:
                self.feed(event)

    def _on_fleet_report(self, device: str, report: ReleaseReport) -> None:
        if self.state is not None and report.outcome == "rolled-back":
            report = replace(report, version=self.state.version)  # of which this is the end
        self._ledger.keep_release_report(device, report)
        if self._publication.answered(device):
            self._observer.release_result(_result(device, report))
        if report.outcome == "activated":
            self.feed(Taken(device, report.reason))
        elif report.outcome == "refused":
            self.feed(Failed(device, report.reason))

    # ---- the machine ----

    def feed(self, event: Event) -> None:
        """Let the machine take a step, and do what it says."""
        if self.state is None:
            return
        state, commands = step(self.state, event, self._rules, clock.now())
        back = state.phase == "rolled-back" != self.state.phase
        instead = self._offers.back(state.version, state.back_to, state.offered) if back else None
        self._standing.advance(state, complete=Finished() in commands, instead=instead)
        for command in commands:
            self._carry_out(command, state)

    def _carry_out(self, command: Command, state: RolloutState) -> None:
        match command:
            case Offer(devices):
                self.note(f"model {state.version} is offered to {_named(devices)}")
                self._publication.publish()
            case TakeBack(_, reason):
                what = f"taken back: {reason}"
                self._incidents.note(f"model {state.version}", what, _where_to(state))
                self._publication.expect_answers()
            case SendBack(device):
                self._directions.send_back(device, state)
            case Stopped(reason):
                self.note(f"the rollout of model {state.version} waits: {reason}", warn=True)
            case Finished():
                self.note(f"model {state.version} is the fleet's: {len(state.taken)} devices have it")
                self._publication.publish()


def _where_to(state: RolloutState) -> str:
    if not state.offered:
        return "no device has it"
    if state.back_to:
        return f"the devices go back to model {state.back_to}"
    return "there is none before it: no model answers on the devices that had it"


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


def _answers(report: ReleaseReport, release: Release) -> bool:
    return (report.order, report.version) == (release.order, release.version)


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
