"""One device told by itself which model it should have: put right, pinned, or sent back alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from broker_server import clock
from broker_server.rollout.machine import RolloutState
from broker_server.rollout.offers import Offers
from broker_server.rollout.standing import Standing
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.wire.presence import Hello
from edge_client.wire.rollout import Release, ReleaseReport


class Directions:
    """Tells single devices, and waits `decide_s` seconds for their answers."""

    def __init__(
        self,
        ledger: Ledger,
        store: ModelStore,
        offers: Offers,
        standing: Standing,
        decide_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._offers = offers
        self._standing = standing
        self._decide_s = decide_s
        self._note = note
        self._awaited: dict[str, float] = {}  # devices that were told, and until when we wait

    def awaited(self, online: frozenset[str]) -> bool:
        """Whether a device that is here has yet to answer."""
        return any(device in online and clock.now() < until for device, until in self._awaited.items())

    def last(self, device: str) -> Release | None:
        """What a device was told last by itself."""
        return self._offers.directed(device)

    def answered(self, device: str, report: ReleaseReport) -> None:
        """A device has done what it was told by itself, or said why not."""
        self._awaited.pop(device, None)
        self._ledger.keep_release_report(device, report)
        what = f"model {report.version} {report.outcome}" if report.version else "no model"
        self._note(f"{device}: {what} ({report.reason})")

    def put_right(self, device: str, hello: Hello) -> None:
        """Tell a device that has another version than it should; one that it refused it is not told again.

        A device of a rollout at work is left to its wave: a newer order would make that one a replay to it.
        """
        pins, state = self._store.pins(), self._standing.at_work
        if state is not None and device not in pins and any(device in wave for wave in state.waves):
            return
        wanted, held = pins.get(device, self._standing.current), hello.model_version
        if held == wanted or not (wanted or self._is_withdrawn(held)):
            return
        report = self._ledger.release_reports(wanted).get(device)
        if report is not None and report.outcome == "refused" and device not in pins:
            return
        self._tell(device, wanted, held)

    def _is_withdrawn(self, version: int) -> bool:
        """Whether a version was taken back with none before it; one that nobody here knows was not."""
        ended = (state for state in self._store.rollouts(RolloutState) if state.phase == "rolled-back")
        return any(state.version == version and not state.back_to for state in ended)

    def sent_back(self, device: str) -> RolloutState | None:
        """The newest rollout, if it sent this device back alone: its offers are replays to it since then."""
        state = self._standing.state
        if state is None or state.phase in ("rolled-back", "superseded") or device in self._store.pins():
            return None
        return state if device in state.sent_back else None

    def send_back(self, device: str, state: RolloutState) -> None:
        """A signed rollback for one device; its report is a refusal from now on, so that it is left there."""
        if (report := self._ledger.release_reports(state.version).get(device)) is not None:
            refused = replace(report, outcome="refused", reason=state.failed[device][:500])
            self._ledger.keep_release_report(device, refused)
        self._tell(device, state.back_to, state.version)

    def _tell(self, device: str, wanted: int, held: int) -> None:
        self._awaited[device] = clock.now() + self._decide_s
        last = self._standing.release.order if self._standing.release is not None else 0
        if self._offers.direct(device, wanted, held, after=last):
            self._note(f"{device} has model {held} and should have {wanted or 'none'}")
