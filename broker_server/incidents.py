"""What went wrong and was dealt with: in the log, in the ledger, and told to who watches."""

from __future__ import annotations

import logging

from broker_server import clock
from broker_server.report.observer import Note, RunObserver
from broker_server.store.ledger import Ledger

log = logging.getLogger(__name__)


class Incidents:
    """Where every part of the server says so."""

    def __init__(self, ledger: Ledger, observer: RunObserver) -> None:
        self._ledger = ledger
        self._observer = observer

    def note(self, who: str, what: str, remedy: str) -> None:
        """One incident: of whom, what it was, and how the run goes on."""
        log.warning("%s: %s; %s", who, what, remedy)
        self._ledger.note(clock.now(), who, what[:1000], remedy)
        self._observer.note(Note(f"{who}: {what}; {remedy}"[:1900], level="warning"))
