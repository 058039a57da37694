"""The server's connection to its broker: news of it, a broker that is gone, messages that it lost."""

from __future__ import annotations

import logging
import time

from broker_server.broker.base import Broker, BrokerError
from broker_server.incidents import Incidents
from edge_client.session.mqtt import ConnectionChange

log = logging.getLogger(__name__)

BROKER_CHECK_S = 3.0


class BrokerLink:
    """What has become of the connection, and of the broker behind it."""

    def __init__(self, broker: Broker, incidents: Incidents) -> None:
        self._broker = broker
        self._incidents = incidents
        self._checked = 0.0
        self._linked = False  # as the last change said
        self._dropped = 0  # messages that the broker acknowledged and threw away

    def on_change(self, change: ConnectionChange) -> None:
        """The connection came or went."""
        if not change.connected:
            if self._linked:  # a broker that another hand starts again at once is never seen gone
                lost = f"connection lost: {change.reason}"
                self._incidents.note("broker", lost, "what has no receipt is sent again")
            log.warning("not connected: %s", change.reason)
            self.revive()
        self._linked = change.connected

    def revive(self) -> None:
        """Start a broker of ours again that is gone; looked at every few seconds while disconnected."""
        now = time.monotonic()
        if now - self._checked < BROKER_CHECK_S or self._broker.alive():
            return
        self._checked = now
        self._incidents.note("broker", "gone", "started again; open results are offered again")
        try:
            self._broker.restart()
        except BrokerError as exc:
            log.warning("the broker does not start: %s", exc)

    @property
    def dropped_topic(self) -> str | None:
        """Where the broker counts what it lost; None where it does not."""
        return self._broker.dropped_topic

    def on_dropped(self, payload: bytes) -> None:
        """The broker's own count of what it lost; it comes every few seconds."""
        count = int(payload) if payload.isdigit() and len(payload) < 20 else 0
        if count > self._dropped:
            lost = f"threw {count - self._dropped} acknowledged messages away"
            self._incidents.note("broker", lost, "what has no receipt is sent again")
        self._dropped = count
