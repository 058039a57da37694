"""The release as the fleet gets it: to whom, again while answers are missing, and until when they count."""

from __future__ import annotations

from dataclasses import replace

from broker_server import clock
from broker_server.rollout.machine import Rules
from broker_server.rollout.offers import Offers, is_wide
from broker_server.rollout.standing import Standing
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.wire.rollout import Release

RETRY_S = 1.0  # while the broker is away
REPUBLISH_S = 10.0  # while reports are missing: a device answers again from what it remembers


class Publication:
    """Publishes what stands (`Standing.release`) and knows who has answered it."""

    def __init__(
        self, ledger: Ledger, store: ModelStore, offers: Offers, standing: Standing, rules: Rules
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._offers = offers
        self._standing = standing
        self._rules = rules
        self._heard: set[str] = set()
        self._published = 0.0
        self._deadline = self._grace_ends = 0.0  # for the answers to a rollback
        self._owed_until: float | None = None  # a rollback that the broker has not heard of yet
        self._resume()

    @property
    def due(self) -> bool:
        """Whether it is time to publish again, should somebody still be awaited."""
        return self._standing.release is not None and clock.now() - self._published >= REPUBLISH_S

    def awaited(self, online: frozenset[str]) -> bool:
        """Whether a wave is at work, or a rollback is not answered."""
        state = self._standing.state
        if state is None:
            return False
        if state.phase in ("offering", "observing") or clock.now() < (self._owed_until or 0.0):
            return True
        if state.phase != "rolled-back" or clock.now() > self._deadline:
            return False
        missing = frozenset(state.offered) - self._heard
        return bool(missing if clock.now() < self._grace_ends else missing & online)

    def begin(self) -> None:
        """Another rollout: nobody has answered yet."""
        self._heard, self._owed_until = set(), None

    def answered(self, device: str) -> bool:
        """A device has answered; False if it had before."""
        if device in self._heard:
            return False
        self._heard.add(device)
        return True

    def expect_answers(self) -> None:
        """Publish a rollback, and wait for everybody's answer to it."""
        self._heard = set()
        self._await_answers_since(clock.now())
        self.say_the_end()

    def say_the_end(self) -> None:
        """Publish a rollback until the broker has it; of one that concerns nobody, take the offer away."""
        state = self._standing.state
        if state is None or self._owed_until is None or clock.now() - self._published < RETRY_S:
            return
        self._published = clock.now()
        if state.offered:
            self.publish()
        elif self._offers.withdraw():  # who joins later finds none
            self._standing.release = self._owed_until = None

    def publish(self) -> None:
        """To all devices that it is offered to so far."""
        state, release = self._standing.state, self._release_for_now()
        if state is None or release is None or not state.offered:  # a release without a cohort is everyone's
            return
        self._published = clock.now()
        broadcast = not release.rollback and is_wide(state.offered, self._ledger.devices())
        if self._offers.to_everyone(release, broadcast=broadcast):  # the way back lies in the other slot
            self._owed_until = None

    def to_one(self, device: str) -> bool:
        """To a device that is back; False if it is not offered to this one."""
        state, release = self._standing.state, self._release_for_now()
        if state is None or release is None or device not in state.offered:
            return False
        self._offers.to_one(device, release)
        return True

    def _resume(self) -> None:
        """A server that was killed may not have published a rollback, or not have heard all answers to it."""
        state = self._standing.state
        if state is None or state.phase != "rolled-back":
            return
        reports = self._ledger.release_reports(state.version)
        self._heard = {device for device, report in reports.items() if report.outcome == "rolled-back"}
        self._await_answers_since(state.since)

    def _await_answers_since(self, began: float) -> None:
        self._deadline, self._grace_ends = began + self._rules.decide_s, began + self._rules.grace_s
        self._owed_until, self._published = clock.now() + max(self._rules.grace_s, REPUBLISH_S), 0.0

    def _release_for_now(self) -> Release | None:
        """With its cohort: the devices so far; nobody is named once everyone may have it."""
        state, release = self._standing.state, self._standing.release
        if state is None or release is None:
            return None
        everyone = state.last and state.phase != "rolled-back" and not self._store.pins()
        return replace(release, cohort=() if everyone else state.offered)
