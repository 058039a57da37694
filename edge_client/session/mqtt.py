"""One connection to the broker; the MQTT library's callbacks end here.

A lost connection comes back by itself with a jittered back-off, subscriptions included. The caller
reads one inbox: messages, and the news that the connection came or went. Nothing is promised about
delivery beyond the broker (docs/wire.md): whoever needs an answer asks again.

The library connects again after an ordinary loss. Its thread may also end: an exception in it, a full
inbox, a refused subscription. A thread of ours waits for that and starts over with a new client.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTMessageInfo,
    MQTTv5,
    MQTTv311,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from compression.errors import BrambleError
from edge_client.session.address import BrokerAddress, read_password, tls_context
from edge_client.session.inbox import ConnectionChange, Inbox, Incoming
from edge_client.session.tls import ClientContext

__all__ = ["ConnectionChange", "Incoming", "LastWill", "Session", "SessionError", "packet_bytes"]

log = logging.getLogger(__name__)

KEEPALIVE_S = 60  # with 128 KiB chunks the slowest link that works is 4.4 KB/s
SESSION_EXPIRY_S = 7 * 24 * 3600  # a device that is off over a long week-end finds its session again
CONNECT_TIMEOUT_S = 15.0  # TCP, TLS and CONNACK over a weak Wi-Fi
PROBE_S = 5.0  # for an answer to MQTT 5: amqtt, which speaks 3.1.1 only, gives none at all
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
ROOM_CHECK_S = 0.2  # while a full inbox is being read
WINDOW = 4  # publishes on their way to the broker at a time when many are sent


class SessionError(BrambleError, RuntimeError):
    """The broker cannot be reached, refused, or did not acknowledge in time."""


@dataclass(frozen=True, slots=True)
class LastWill:
    """What the broker publishes, retained, when the connection is lost."""

    topic: str
    payload: bytes


class _Client(Client):
    """The library's client, which says when its network thread has ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended = threading.Event()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """What the network thread does."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception:  # whatever it was: `is_connected` would go on saying yes
            log.exception("the MQTT library failed; the connection is made anew")
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self.ended.set()


class Session:
    """A persistent MQTT session, QoS 1 throughout. Entering starts to connect, leaving disconnects."""

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        filters: Sequence[str],
        *,
        will: LastWill | None = None,
        manual_ack: bool = False,
        rng: random.Random | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.address = address
        self.client_id = client_id
        self._filters = list(filters)
        self._will = will
        self._manual_ack = manual_ack
        self._rng = rng or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._inbox = inbox or Inbox()
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._attempt = 0
        self._client: _Client | None = None
        self._tls: ClientContext | None = None  # one for all connections: it learns that the clock is behind
        self._lock = threading.Lock()  # `close` and the keeper agree on which client is the last
        self._connection = 0  # counts; what came on one is acknowledged on no other
        self._leaving = False  # nothing more is taken from this client's connection
        self._keeper = threading.Thread(target=self._keep_connected, name=f"mqtt-{client_id}", daemon=True)

    # ---- life ----

    def __enter__(self) -> Self:
        self._tls = tls_context(self.address)  # a bad file is the caller's error, now
        read_password(self.address)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the last will is not sent. May be called twice."""
        self._closing.set()
        with self._lock:
            client = self._client
        if client is not None:
            client.disconnect()
            client.loop_stop()
        if self._keeper.is_alive():
            self._keeper.join(CONNECT_TIMEOUT_S)

    @property
    def connected(self) -> bool:
        """Whether the broker answers and the subscriptions are in place."""
        return self._ready.is_set()

    def wait_connected(self, timeout_s: float) -> None:
        """Return once connected and subscribed; raise `SessionError` after the time-out."""
        if not self._ready.wait(timeout_s):
            where = f"{self.address.host}:{self.address.port}"
            raise SessionError(f"no connection to the broker at {where} within {timeout_s:g} s")

    # ---- messages ----

    def receive(self, timeout_s: float) -> Incoming | ConnectionChange | None:
        """The next message or change of the connection; None after the time-out."""
        return self._inbox.get(timeout_s)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        """Hand a message to the broker; with a time-out, return once it has acknowledged.

        Raises:
            SessionError: not connected, or not acknowledged in time (it may still arrive).
        """
        info = self._send(topic, payload, retain)
        if timeout_s is not None:
            self._await([(topic, info)], timeout_s)

    def publish_many(self, messages: Iterable[tuple[str, bytes]], *, timeout_s: float) -> None:
        """Publish one after the other, `WINDOW` at a time; the time-out is for each.

        Raises:
            SessionError: as `publish`; what came before may have arrived.
        """
        pending: list[tuple[str, MQTTMessageInfo]] = []
        for topic, payload in messages:
            if len(pending) == WINDOW:
                self._await([pending.pop(0)], timeout_s)
            pending.append((topic, self._send(topic, payload, retain=False)))
        self._await(pending, timeout_s)

    def _send(self, topic: str, payload: bytes, retain: bool) -> MQTTMessageInfo:
        if not self._ready.is_set() or self._client is None:
            raise SessionError(f"{topic}: not connected to the broker")
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise SessionError(f"{topic}: {info.rc.name}")
        return info

    def _await(self, pending: list[tuple[str, MQTTMessageInfo]], timeout_s: float) -> None:
        for topic, info in pending:
            try:
                info.wait_for_publish(timeout_s)
                done = info.is_published()
            except (RuntimeError, ValueError) as exc:  # the connection was lost while it was queued
                raise SessionError(f"{topic}: {exc}") from exc
            if not done:
                raise SessionError(f"{topic}: not acknowledged by the broker within {timeout_s:g} s")

    # ---- the keeper's thread ----

    def _keep_connected(self) -> None:
        """Make a client, let it live, and make the next one when its network thread has ended."""
        while not self._closing.is_set():
            try:
                client = self._make_client(self._protocol())
                client.connect(
                    self.address.host, self.address.port, keepalive=KEEPALIVE_S, **_connect_options(client)
                )
            except (OSError, ValueError) as exc:  # ValueError: a file of the address, or a host name, is bad
                self._inbox.note(ConnectionChange(False, str(exc)))
            else:
                self._live(client)
            self._closing.wait(self._next_delay())
            while not self._inbox.has_room() and not self._closing.wait(ROOM_CHECK_S):
                pass  # full: whatever the broker sends again would be refused again

    def _live(self, client: _Client) -> None:
        with self._lock:
            self._client, self._leaving = client, False
            client.loop_start()
            if self._closing.is_set():
                client.disconnect()
        client.ended.wait()
        self._connection += 1
        if self._ready.is_set():  # without a word from the library: its thread failed
            self._ready.clear()
            self._inbox.note(ConnectionChange(False, "the connection failed"))
        if (connection := client.socket()) is not None:
            connection.close()  # so that the broker learns of it

    def _protocol(self) -> Literal["5", "3.1.1"]:
        if self.address.protocol == "auto":
            return "5" if _speaks_mqtt5(self.address, f"{self.client_id}-probe", self._tls) else "3.1.1"
        return self.address.protocol

    def _make_client(self, protocol: Literal["5", "3.1.1"]) -> _Client:
        client = _base_client(self.address, self.client_id, protocol, self._tls)
        if self._will:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    # ---- the network thread: what raises below ends it, and the keeper starts over ----

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _more: Properties | None
    ) -> None:
        if reason.is_failure:
            self._back_off(client)
            self._inbox.note(ConnectionChange(False, f"the broker refused {self.client_id}: {reason}"))
            return
        client.subscribe([(topic_filter, 1) for topic_filter in self._filters])

    def _on_subscribe(
        self, client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _more: Properties | None
    ) -> None:
        if refused := [str(reason) for reason in reasons if reason.is_failure]:
            reason = f"the broker refused a subscription of {self.client_id}: {refused[0]}"
            self._inbox.note(ConnectionChange(False, reason))
            self._leave(client)  # the access list may be put right: again, ever more rarely
            return
        self._attempt = 0
        self._ready.set()
        self._back_off(client)
        self._inbox.note(ConnectionChange(True, "connected"))

    def _on_disconnect(
        self,
        client: Client,
        _data: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _more: Properties | None,
    ) -> None:
        was_ready = self._ready.is_set()
        self._ready.clear()
        self._connection += 1
        self._back_off(client)
        if was_ready:
            self._inbox.note(ConnectionChange(False, str(reason)))

    def _on_connect_fail(self, client: Client, _data: Any) -> None:
        self._back_off(client)

    def _on_message(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        acknowledge = partial(self._acknowledge, client, self._connection, message.mid, message.qos)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("%s: dropped a message on a topic that is not UTF-8", self.client_id)
            acknowledge()  # or the broker sends it again, for ever
            return
        if self._leaving:
            return
        if not self._inbox.put(Incoming(topic, bytes(message.payload), bool(message.retain), acknowledge)):
            log.warning(
                "%s: the inbox is full; connecting again, for what is not acknowledged", self.client_id
            )
            self._leave(client)
        elif not self._manual_ack:
            acknowledge()

    def _acknowledge(self, client: Client, connection: int, mid: int, qos: int) -> None:
        """Only on the connection that brought it: on another the number means another message."""
        if connection == self._connection:
            client.ack(mid, qos)

    def _leave(self, client: Client) -> None:
        """End a connection in good order: no last will, and the broker keeps what is not acknowledged."""
        if not self._leaving:
            self._leaving = True
            client.disconnect()

    def _next_delay(self) -> float:
        """Full jitter, so that a fleet does not come back in step after the broker's restart."""
        ceiling = min(LAST_RETRY_S, FIRST_RETRY_S * 2**self._attempt)
        self._attempt = min(self._attempt + 1, 16)
        return self._rng.uniform(0.1, ceiling)

    def _back_off(self, client: Client) -> None:
        delay = self._next_delay() if not self._ready.is_set() else FIRST_RETRY_S
        client.reconnect_delay_set(min_delay=delay, max_delay=delay)  # type: ignore[arg-type]


def packet_bytes(topic: str, payload: bytes) -> int:
    """Length of the QoS 1 PUBLISH packet of MQTT 3.1.1 (one byte more on MQTT 5)."""
    rest = 2 + len(topic.encode()) + 2 + len(payload)
    length_digits = 1 + (rest > 127) + (rest > 16_383) + (rest > 2_097_151)
    return 1 + length_digits + rest


def send_at_once(_client: Client, _data: Any, connection: Any) -> None:
    """Callback of the library for a connection that opens. Small packets do not wait for each other.

    Each packet is a write of its own; by Nagle's algorithm a second small one waits until the other side has
    acknowledged the first, and Linux takes 40 ms over that where it has nothing to say.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _base_client(
    address: BrokerAddress, client_id: str, protocol: Literal["5", "3.1.1"], tls: ClientContext | None
) -> _Client:
    if protocol == "5":
        client = _Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True)
    else:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTv311,
            clean_session=False,
            manual_ack=True,
        )
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.on_socket_open = send_at_once
    if address.username is not None:
        client.username_pw_set(address.username, read_password(address))
    if tls is not None:
        client.tls_set_context(tls)
    return client


def _connect_options(client: Client) -> dict[str, Any]:
    if client.protocol != MQTTv5:
        return {}
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    return {"clean_start": False, "properties": properties}


def _speaks_mqtt5(address: BrokerAddress, client_id: str, tls: ClientContext | None) -> bool:
    """Try MQTT 5; a broker of 3.1.1 refuses or hangs up. Raise `OSError` if nobody listens."""
    answered = threading.Event()
    accepted: list[bool] = []

    def on_connect(_c: Client, _d: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
        accepted.append(not reason.is_failure)
        answered.set()

    def on_disconnect(
        _c: Client, _d: Any, _f: DisconnectFlags, _r: ReasonCode, _p: Properties | None
    ) -> None:
        answered.set()

    client = _base_client(address, client_id, "5", tls)
    client.on_connect, client.on_disconnect = on_connect, on_disconnect
    # With the session kept: a broker that names clients by their certificate gives the probe the real one.
    client.connect(address.host, address.port, keepalive=KEEPALIVE_S, **_connect_options(client))
    client.loop_start()
    try:
        answered.wait(PROBE_S)
    finally:
        client.disconnect()
        client.loop_stop()
    return bool(accepted and accepted[0])
