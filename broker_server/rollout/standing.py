"""The newest rollout: how far it is and what was published for it last, in the ledger and here alike."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from broker_server import clock
from broker_server.rollout.machine import RolloutState
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.wire.rollout import Release

log = logging.getLogger(__name__)

CURRENT = "model_current"  # fact: the version that every device should have


class Standing:
    """Where a fleet stands with its models, also after a restart.

    Attributes:
        state: of the newest rollout; None before the first.
        release: as published last: of the rollout, or the rollback after it.
    """

    def __init__(self, ledger: Ledger, store: ModelStore) -> None:
        self._ledger = ledger
        self._store = store
        self._number = 0
        self.state: RolloutState | None = None
        self.release: Release | None = None
        if (last := store.last_rollout(RolloutState, Release)) is not None:
            self._number, state, self.release = last
            # the clock may have been set back since: what began in the future would never be over
            self.state = replace(state, since=min(state.since, clock.now()))
            log.info("model %d: %s", state.version, state.phase)

    @property
    def current(self) -> int:
        """The version that the fleet should have; 0 before the first."""
        return int(self._ledger.fact(CURRENT) or 0)

    @property
    def at_work(self) -> RolloutState | None:
        """The newest rollout if it is not over."""
        return self.state if self.state is not None and not self.state.over else None

    def supersede(self, version: int) -> None:
        """A rollout at work ends where it is, for another version's."""
        if self.at_work is not None:
            ended = replace(self.at_work, phase="superseded", reason=f"model {version} came")
            self._store.update_rollout(self._number, ended)

    def begin(self, state: RolloutState, release: Release) -> None:
        """A rollout, or the end of one, is the newest from now on."""
        self.state, self.release = state, release
        self._number = self._store.keep_rollout(state, state.version, release)

    def advance(self, state: RolloutState, *, complete: bool, instead: Release | None = None) -> None:
        """The newest rollout has taken a step; once complete its version is the fleet's.

        `instead` is the release to publish from now on, of a rollout that was taken back. A server that is
        killed finds all of it or nothing.
        """
        if state == self.state:
            return
        with self.all_or_nothing():
            self.state = state
            self._store.update_rollout(self._number, state)
            if complete:
                self.settle(state.version)
            if instead is not None:
                self.release = instead
                self._store.update_release(self._number, instead)

    def settle(self, version: int) -> None:
        """A version is the one that every device should have."""
        self._ledger.set_fact(CURRENT, str(version))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is done inside counts as a whole, in the ledger and here; what was published is out."""
        before = self._number, self.state, self.release
        try:
            with self._ledger.transaction():
                yield
        except BaseException:
            self._number, self.state, self.release = before
            raise
