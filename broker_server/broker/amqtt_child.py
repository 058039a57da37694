"""The embedded broker's process: amqtt on the loopback interface, with the faults that matter mended.

Run as ``python -m broker_server.broker.amqtt_child CONFIG.json``. Measured on amqtt 0.12.1
(docs/adr/0003), and why each override is here:

* when a client connects it is sent the retained messages of *everyone's* subscriptions;
* an ACL plug-in makes its loop over the subscriptions wait in the body: a SUBSCRIBE at that moment
  changes the table, the loop raises, and a message is silently gone. So the rules are asked without waiting;
* a client that comes back before the broker noticed its loss takes its session over, and the end of the old
  connection then marks that session as absent: nothing is delivered to it any more;
* it has no limit on the size of a packet.

It still is for one machine and one afternoon: nothing is kept over a restart, anyone on the machine may
connect under any name, QoS 1 is not repeated after a reconnect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker, Session
from amqtt.contexts import Action
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin

from broker_server.broker.access import AccessRules
from edge_client.wire.topics import Topics

log = logging.getLogger(__name__)


class NamedUsersPlugin(BaseAuthPlugin):  # type: ignore[misc]
    """Lets in whoever gives a user name that is also the client identifier.

    amqtt keeps messages for an absent client only if it is not anonymous, hence the name.
    """

    async def authenticate(self, *, session: Session) -> bool:
        """Called by amqtt when a client connects."""
        return bool(session.username) and session.username == session.client_id


class BoundedReader(StreamReaderAdapter):  # type: ignore[misc]
    """Cuts the connection before a packet that is too large is taken into memory."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> None:
        super().__init__(reader)
        self._writer, self._limit = writer, limit

    async def read(self, n: int = -1) -> bytes:
        """Read exactly `n` bytes."""
        if n > self._limit:
            log.warning("a packet of %d bytes exceeds the limit of %d: connection closed", n, self._limit)
            self._writer.transport.abort()
            raise ConnectionResetError("packet too large")
        data: bytes = await super().read(n)
        return data


class FleetBroker(Broker):  # type: ignore[misc]
    """amqtt with the fleet's access rules and the overrides of the module's docstring."""

    def __init__(self, config: dict[str, Any], rules: AccessRules, max_packet_bytes: int) -> None:
        super().__init__(config)
        self._rules, self._max_packet_bytes = rules, max_packet_bytes
        self._retained_tasks: set[asyncio.Task[None]] = set()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Handle a new TCP connection."""
        bounded = BoundedReader(reader, writer, self._max_packet_bytes)
        await self._client_connected(listener_name, bounded, StreamWriterAdapter(writer))

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        allowed = self._rules.may_write if action == Action.PUBLISH else self._rules.may_read
        return allowed(session.username or "", topic)

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        await self._mark_present(client_session)  # the old connection may have ended while this one began
        await super()._client_message_loop(client_session, handler)

    async def _handle_disconnect(
        self,
        client_session: Session,
        handler: BrokerProtocolHandler,
        disconnect_waiter: asyncio.Future[Any],
    ) -> None:
        await super()._handle_disconnect(client_session, handler, disconnect_waiter)
        if self._get_handler(client_session) is not handler:  # or while this one is served
            await self._mark_present(client_session)

    async def _mark_present(self, session: Session) -> None:
        if session.transitions.state == "disconnected":
            session.transitions.connect()
            await self._publish_session_retained_messages(session)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], [])
        if all(subscriber.client_id != session.client_id for subscriber, _ in subscribers):
            return
        task = asyncio.create_task(super()._publish_retained_messages_for_subscription(subscription, session))
        self._retained_tasks.add(task)
        task.add_done_callback(self._retained_tasks.discard)


def broker_config(host: str, port: int, session_expiry_s: int) -> dict[str, Any]:
    """amqtt's settings; its own defaults listen on all interfaces and let everyone in."""
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}", "max_connections": 0}},
        "session_expiry_interval": session_expiry_s,
        "plugins": {"broker_server.broker.amqtt_child.NamedUsersPlugin": {}},
    }


async def serve(settings: dict[str, Any]) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    config = broker_config(settings["host"], settings["port"], settings["session_expiry_s"])
    broker = FleetBroker(config, AccessRules(Topics(settings["fleet"])), settings["max_packet_bytes"])
    await broker.start()
    await stopping.wait()
    await broker.shutdown()


def main(argv: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(json.loads(Path(argv[0]).read_text("utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
