"""The choice of cohorts: the rule of the settings, what the ledger knows, and the reasons kept in it."""

from __future__ import annotations

from functools import reduce

import numpy as np

from broker_server.cohort.base import Selection
from broker_server.cohort.everyone import Everyone
from broker_server.cohort.history import Tracks, after_round, candidates
from broker_server.config import ServerConfig
from broker_server.members import example_limit
from broker_server.records import RoundRecord
from broker_server.rounds.machine import StartStage
from broker_server.store.ledger import Ledger
from compression.records import dumps, loads

FACT = "selection"  # of the training stage at work
MAX_SELECTION_BYTES = 1 << 22  # 4,096 devices with a reason each


class Choosing:
    """Chooses, and says afterwards what was chosen and why, also after a restart."""

    def __init__(self, config: ServerConfig, ledger: Ledger) -> None:
        self._rule = config.cohort
        self._seed = config.model.seed
        self._config = config
        self._ledger = ledger
        rounds = ledger.rounds(RoundRecord).values()
        self._tracks: Tracks = reduce(after_round, rounds, {})

    def choose(self, command: StartStage, already: int) -> tuple[str, ...]:
        """The cohort of a stage; `already` results of it are in. For all but training it is everyone."""
        if command.stage.kind != "train" or isinstance(self._rule, Everyone):
            return command.cohort
        number, hellos = command.stage.round, self._ledger.devices()
        claims = (hellos[name].data.examples for name in command.cohort)
        limit = example_limit(claims, self._config)
        known = candidates(command.cohort, hellos, self._tracks, round_number=number, max_examples=limit)
        rng = np.random.default_rng([self._seed, number])
        selection = self._rule.select(known, number, rng, already)
        self._ledger.set_fact(FACT, dumps(selection).decode())
        return tuple(sorted(selection.chosen))

    def selection(self) -> Selection | None:
        """The last choice; None where everyone is asked."""
        text = self._ledger.fact(FACT)
        if text is None or isinstance(self._rule, Everyone):
            return None
        return loads(Selection, text.encode(), max_bytes=MAX_SELECTION_BYTES)

    def closed(self, record: RoundRecord) -> None:
        """A round is over: the next choice knows of it."""
        self._tracks = after_round(self._tracks, record)
