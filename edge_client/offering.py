"""A result on its way to the server: offered until its receipt has come, its payload sent as granted."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from edge_client.state import DeviceState
from edge_client.uplink import Uplink
from edge_client.wire.blobs import split
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.errors import WireError
from edge_client.wire.rounds import Receipt, Result
from edge_client.work import Outcome

log = logging.getLogger(__name__)

INLINE_BYTES = 64 * 1024  # a payload up to this travels inside its result: no grant, one message
OFFER_RETRY_S, LAST_OFFER_RETRY_S = 5.0, 120.0  # between offers of a result without a receipt
GIVE_UP_S = 120.0  # on a receipt, once a newer task waits, the result is offered and the broker is there


class Offering:
    """The one result of a device that has no receipt. ``now`` is the monotonic clock, in seconds."""

    def __init__(
        self, state: DeviceState, uplink: Uplink, rng: random.Random, now: Callable[[], float]
    ) -> None:
        self._state = state
        self._uplink = uplink
        self._rng = rng
        self._now = now
        self._offer_at = 0.0
        self._offer_retry_s = OFFER_RETRY_S
        self._give_up_at: float | None = None

    def keep(self, outcome: Outcome) -> None:
        """Write a result down, before anything of it is sent."""
        self._state.keep_pending(outcome.result, outcome.payload, outcome.kept)
        self.be_patient()
        self.soon()

    def soon(self) -> None:
        """Offer at the next turn, and then as often as at first."""
        self._offer_at, self._offer_retry_s = 0.0, OFFER_RETRY_S

    def be_patient(self) -> None:
        """Begin anew to wait for the receipt."""
        self._give_up_at = None

    def next_due(self) -> float | None:
        """When the result is to be offered; None without one."""
        return self._offer_at if self._state.pending else None

    def advance(self, *, task_waits: bool) -> None:
        """Offer the result if it is time, or give it up for a newer task."""
        if (pending := self._state.pending) is None:
            return
        result, now = pending.result, self._now()
        waited = self._give_up_at is not None and now > self._give_up_at
        if task_waits and waited and not _moves_a_variate(result):
            log.warning("task %d: no receipt, the result is given up", result.task)
            self._state.settle(accepted=False)
            self.be_patient()
            return
        if now < self._offer_at:
            return
        self._offer_at = now + self._offer_retry_s * self._rng.uniform(0.75, 1.25)
        self._offer_retry_s = min(2 * self._offer_retry_s, LAST_OFFER_RETRY_S)
        self._uplink.tell(result, pending.payload if len(pending.payload) <= INLINE_BYTES else b"")
        if task_waits and self._give_up_at is None:
            self._give_up_at = now + GIVE_UP_S

    def on_grant(self, grant: Grant) -> None:
        """Send the chunks that the server has room for; raise `WireError` for chunks that there are not."""
        pending = self._state.pending
        if pending is None or pending.result.task != grant.task:
            return
        ref = pending.result.payload
        if ref is None or ref.digest != grant.blob or max(grant.chunks) >= ref.count:
            raise WireError("a grant for chunks that this device does not have")
        parts = split(pending.payload)
        self.be_patient()  # the server is at it
        try:
            self._uplink.tell_chunks((Chunk(blob=ref.digest, index=i), parts[i]) for i in grant.chunks)
        finally:  # it takes minutes on a slow link, and an offer meanwhile is answered with the same grant
            self._offer_retry_s = OFFER_RETRY_S
            self._offer_at = self._now() + self._offer_retry_s

    def on_receipt(self, receipt: Receipt) -> None:
        """Settle the result as the server decided."""
        pending = self._state.pending
        if pending is None or pending.result.task != receipt.task:
            return
        verdict = "accepted" if receipt.accepted else f"refused: {receipt.reason}"
        log.info("task %d: %s", receipt.task, verdict)
        self._state.settle(accepted=receipt.accepted)
        self.be_patient()


def _moves_a_variate(result: Result) -> bool:
    """Whether it may have moved the fleet's control variate (SCAFFOLD), which this device's own must follow.

    Such a result is not given up: the receipt says which of the two it was, and a server that lives answers
    every offer. Given up and counted all the same, the two would stay apart for the rest of the run.
    """
    return result.training is not None and result.training.variate_bytes > 0
