"""Messages on their way in: from bytes on a topic to whoever sees to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from broker_server import clock
from broker_server.attendance import Attendance
from broker_server.checks import RefusedError
from broker_server.fleet_latency import FleetLatency
from broker_server.ingest import Intake
from broker_server.link import BrokerLink
from broker_server.publisher import Publisher
from broker_server.rollout.release import Rollout
from broker_server.rounds.machine import Event, RunState
from broker_server.traffic import Traffic
from edge_client.session.mqtt import Incoming, SessionError, packet_bytes
from edge_client.wire.chunks import BlobRequest, Chunk
from edge_client.wire.errors import WireError
from edge_client.wire.frame import Envelope, decode
from edge_client.wire.latency import LatencyProgress, LatencyReport
from edge_client.wire.presence import Hello, Presence
from edge_client.wire.rollout import ModelHealth, ReleaseReport
from edge_client.wire.rounds import Result
from edge_client.wire.topics import CHUNK, MESSAGE, STATUS, Topics

log = logging.getLogger(__name__)

IGNORED = "ignored a message on %s: %s"


class Reception:
    """Takes one message after the other. Nothing that a device sends can get past it.

    `settle` makes the results that wait durable (`broker_server.settling`) and says how the run stands then.
    """

    def __init__(
        self,
        topics: Topics,
        link: BrokerLink,
        traffic: Traffic,
        attendance: Attendance,
        intake: Intake,
        publisher: Publisher,
        rollout: Rollout,
        latency: FleetLatency,
        settle: Callable[[], RunState],
    ) -> None:
        self._topics = topics
        self._link = link
        self._traffic = traffic
        self._attendance = attendance
        self._intake = intake
        self._publisher = publisher
        self._rollout = rollout
        self._latency = latency
        self._settle = settle

    def take(self, incoming: Incoming, state: RunState) -> list[Event]:
        """See to one message; what the round machine is to be told."""
        if incoming.topic == self._link.dropped_topic:
            self._link.on_dropped(incoming.payload)
            return []
        try:
            device, channel = self._topics.sender(incoming.topic)
        except WireError as exc:
            log.warning(IGNORED, incoming.topic[:200], exc)
            return []
        self._traffic.came(device, packet_bytes(incoming.topic, incoming.payload))
        if device in self._intake.waiting:  # what it says next, it says after its result
            state = self._settle()
        try:
            event = self._see_to(device, channel, decode(incoming.payload), _came(incoming), state)
        except (WireError, RefusedError) as exc:
            log.warning(IGNORED, incoming.topic[:200], exc)
            return []
        except SessionError as exc:
            log.info("%s; will be asked for again", exc)
            return []
        return [event] if event else []

    def _see_to(
        self, device: str, channel: str, envelope: Envelope, came: float, state: RunState
    ) -> Event | None:
        message = envelope.message
        if channel == STATUS and isinstance(message, Presence):
            return self._attendance.on_presence(device, message, state)
        if channel == CHUNK and isinstance(message, Chunk):
            self._intake.on_chunk(device, message, envelope.body, came)
            return None
        if channel != MESSAGE:
            raise WireError(f"{type(message).__name__} does not belong on channel {channel}")
        match message:
            case Hello():
                return self._attendance.on_hello(device, message, state)
            case Result():
                self._intake.on_result(device, message, envelope.body, came)
            case BlobRequest():
                self._publisher.send_chunks(device, message)
            case ReleaseReport():
                self._rollout.on_report(device, message)
            case LatencyProgress():
                self._latency.on_progress(device, message)
            case LatencyReport():
                self._latency.on_report(device, message)
            case ModelHealth():
                self._rollout.on_health(device, message)
            case _:
                raise WireError(f"{type(message).__name__} is not a device's message")
        return None


def _came(incoming: Incoming) -> float:
    """When a message came in, by the server's clock: it may be read much later."""
    return clock.now() - (time.monotonic() - incoming.at)
