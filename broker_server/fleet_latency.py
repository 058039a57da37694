"""A fleet's benchmark led from the server: every device is asked until it answers or its time is up.

Orders come from the ledger (`broker_server.store.latency`), so that a command beside the running server can
give them, and a server that is killed goes on where it was.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

from broker_server import clock
from broker_server.config import ServerConfig
from broker_server.publisher import Publisher
from broker_server.store.latency import DONE, LatencyStore, OrderRow
from broker_server.store.ledger import Ledger
from edge_client.session.blobs import BlobStore
from edge_client.wire.errors import WireError
from edge_client.wire.latency import LatencyProgress, LatencyReport, LatencyRequest

log = logging.getLogger(__name__)

MEASURED = "measured"  # in the state directory: files that were sent to be measured
LOOK_S = 0.5  # between two looks for an order
ASK_AGAIN_S = 10.0  # a device answers again from what it remembers
AWAY = "not connected"
SILENT = "it is connected and said nothing; its client may be older than this benchmark"


def measured_files(config: ServerConfig) -> BlobStore:
    """Where the files to be measured lie while they are."""
    return BlobStore(Path(config.state) / MEASURED)


@dataclass(slots=True)
class _Work:
    """One order while it is carried out."""

    row: OrderRow
    ends: float  # by the server's clock, which nobody sets
    open: set[str]  # devices that have not answered
    away_since: dict[str, float]
    asked: dict[str, float] = field(default_factory=dict)  # when each was asked last


class FleetLatency:
    """The benchmarks of one fleet while its server runs. One at a time."""

    def __init__(self, config: ServerConfig, ledger: Ledger, publisher: Publisher) -> None:
        self._fleet, self._grace_s = config.fleet, config.rounds.grace_s
        self._ledger, self._publisher = ledger, publisher
        self._store = LatencyStore(ledger.connection)
        self._files = measured_files(config)
        self._work: _Work | None = None
        self._look_at = 0.0
        self._tidy()

    @property
    def busy(self) -> bool:
        """Whether the server is still needed for one."""
        return self._work is not None

    def tick(self, online: frozenset[str]) -> None:
        """Let time pass: take an order up, ask who has not answered, end what is over."""
        now = clock.now()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if self._work is None:
            self._work = self._taken_up(online, now)
        if self._work is None:
            return
        if self._store.answer(self._work.row.number) is not None:  # called off
            self._end()
            return
        self._look_around(self._work, online, now)
        for device in sorted(self._work.open & online):
            if now - self._work.asked.get(device, 0.0) >= ASK_AGAIN_S:
                self._work.asked[device] = now
                self._publisher.tell(device, self._request(self._work))
        if self._over(self._work, online, now):
            self._store.end(self._work.row.number, DONE)
            self._end()

    def on_progress(self, device: str, progress: LatencyProgress) -> None:
        """A device has heard, and says what it does."""
        if (work := self._work_of(device, progress.number)) is not None:
            self._store.note(work.row.number, device, progress.state, progress.reason)

    def on_report(self, device: str, report: LatencyReport) -> None:
        """A device has answered; raise `WireError` for an answer to another question."""
        if (work := self._work_of(device, report.number)) is None:
            log.info("%s answers request %d, which is over", device, report.number)
            return
        measured, model = report.measurement, work.row.order.model
        if (measured is None) == (report.outcome == "measured"):
            raise WireError(f"a latency report that is {report.outcome} and has no or needless figures")
        if measured is not None and model is not None and measured.model != model.digest:
            raise WireError("a latency report of another file")
        self._store.keep(device, report)
        work.open.discard(device)

    # ---- inside ----

    def _taken_up(self, online: frozenset[str], now: float) -> _Work | None:
        row = self._store.waiting()
        if row is None:
            return None
        left_s = row.expires - clock.wall()  # whoever gave the order has another process's clock
        if problem := self._problem(row, left_s):
            self._store.end(row.number, problem)
            self._tidy()
            return None
        known = self._ledger.devices()
        with self._ledger.transaction():
            self._store.ask(row.number, row.order.devices or known)
        if row.order.model is not None:
            self._publisher.serve(row.order.model)
        waiting = set(self._store.states(row.number)) - set(self._store.reports(row.number))
        for device in waiting - online:
            self._store.note(row.number, device, "away", AWAY)
        log.info("request %d: %d devices are asked", row.number, len(waiting))
        return _Work(row, now + left_s, waiting, dict.fromkeys(waiting - online, now))

    def _problem(self, row: OrderRow, left_s: float) -> str:
        order, known = row.order, self._ledger.devices()
        if left_s < 0:
            return "its time was up before a server came"
        if not known:
            return "no device has ever joined this fleet"
        if strange := sorted(set(order.devices) - set(known)):
            return f"there is no device {strange[0]!r} in this fleet; there are {', '.join(known)}"
        if order.model is not None and not self._files.has(order.model):
            return "the file is gone; give the order again"
        return ""

    def _request(self, work: _Work) -> LatencyRequest:
        return LatencyRequest(
            fleet=self._fleet,
            number=work.row.number,
            expires=int(work.row.expires),
            left_s=max(0, math.ceil(work.ends - clock.now())),
            model=work.row.order.model,
            plan=work.row.order.plan,
        )

    def _look_around(self, work: _Work, online: frozenset[str], now: float) -> None:
        """Who has left, and who is back."""
        number = work.row.number
        left, back = work.open - online - set(work.away_since), work.open & online & set(work.away_since)
        states = self._store.states(number) if left else {}
        for device in left:
            work.away_since[device] = now
            state, _ = states[device]
            self._store.note(number, device, "away", f"it left while {state}" if state else AWAY)
        for device in back:
            del work.away_since[device]
            work.asked.pop(device, None)
            self._store.note(number, device, "", "")

    def _over(self, work: _Work, online: frozenset[str], now: float) -> bool:
        """Whether nobody is waited for any more; who is there and said nothing gets the reason."""
        if now <= work.ends and any(
            device in online or self._may_return(work, device, now) for device in work.open
        ):
            return False
        for device, (state, _) in self._store.states(work.row.number).items():
            if not state:
                self._store.note(work.row.number, device, "silent", SILENT)
        return True

    def _may_return(self, work: _Work, device: str, now: float) -> bool:
        return now - work.away_since.get(device, now) < self._grace_s

    def _work_of(self, device: str, number: int) -> _Work | None:
        work = self._work
        return work if work is not None and work.row.number == number and device in work.open else None

    def _end(self) -> None:
        self._work = None
        self._tidy()

    def _tidy(self) -> None:
        """Remove what only orders that are over wanted measured, also those that were called off unheard."""
        for digest in self._store.spent_files():
            self._files.path(digest).unlink(missing_ok=True)
