"""When results that are checked become durable: several in one transaction, with one sync of the disk.

No device needs its receipt before it goes on, so a result may wait until the server's next look for others
to come. It does not where nobody else is to come, nor where it would hold up what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable

from broker_server.ingest import Intake
from broker_server.rounds.machine import Reported, Rules, RunState
from edge_client.session.mqtt import Incoming

HELD = 16  # messages without their acknowledgement: with 20, mosquitto sends no more
HELD_BYTES = 16 << 20  # of updates, payload and decoded: with large ones a sync is a small part of the work


class Settling:
    """Holds acknowledgements back until what they stand for is durable, in the order of the messages."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._acknowledge: list[Callable[[], object]] = []

    def took(self, incoming: Incoming) -> None:
        """A message is seen to; it is acknowledged at once where no result waits."""
        self._acknowledge.append(incoming.acknowledge)
        if not self._intake.waiting:
            self._let_go()

    def due(self, state: RunState, rules: Rules) -> bool:
        """Whether nothing is gained by waiting for more results."""
        waiting = self._intake.waiting
        if not waiting:
            return False
        enough = rules.enough is not None and len(state.reported) + len(waiting) >= rules.enough
        all_in = state.outstanding <= set(waiting)
        held = len(self._acknowledge) >= HELD or self._intake.waiting_bytes >= HELD_BYTES
        return enough or all_in or held

    def settle(self) -> list[Reported]:
        """Make the results that wait durable; what the round machine is to be told."""
        if not self._intake.waiting:
            return []
        events = self._intake.settle()
        self._let_go()
        return events

    def _let_go(self) -> None:
        for acknowledge in self._acknowledge:
            acknowledge()
        self._acknowledge.clear()
