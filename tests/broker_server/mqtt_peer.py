"""A plain MQTT client for tests: what it saw is kept, and everything is waited for, never slept for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_client.session.address import BrokerAddress, read_password, tls_context

DEADLINE_S = 15.0


@dataclass
class Peer:
    """One client and what happened to it."""

    client: mqtt.Client
    connack: Any = None
    session_present: bool | None = None
    disconnected: bool = False
    messages: list[mqtt.MQTTMessage] = field(default_factory=list)
    acks: dict[int, Any] = field(default_factory=dict)
    subacks: dict[int, Any] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, condition: Callable[[], Any], what: str = "condition") -> Any:
        """Wait for a condition that callbacks bring about."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S), f"no {what} within {DEADLINE_S} s: {self}"
        return condition()

    def subscribe(self, topic_filter: str) -> Any:
        """Subscribe and return the broker's answer."""
        _, mid = self.client.subscribe(topic_filter, qos=1)
        assert mid is not None
        return self.until(lambda: self.subacks.get(mid), "SUBACK")[0]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Any:
        """Publish with QoS 1 and return the broker's answer."""
        mid = self.client.publish(topic, payload, qos=1, retain=retain).mid
        return self.until(lambda: self.acks.get(mid), "PUBACK")

    def payloads(self) -> list[bytes]:
        return [bytes(message.payload) for message in list(self.messages)]

    def received(self, payload: bytes) -> mqtt.MQTTMessage:
        """The message with that payload, waited for."""
        self.until(lambda: payload in self.payloads(), f"message {payload[:40]!r}")
        return next(message for message in self.messages if message.payload == payload)


@contextmanager
def peer(
    address: BrokerAddress, *, client_id: str = "", clean: bool = True, welcome: bool = True, **changes: Any
) -> Iterator[Peer]:
    """A connected client; without `welcome` the caller looks at what became of the attempt."""
    address = replace(address, **changes)
    v5 = address.protocol != "3.1.1"
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id or address.username or "nameless",
        protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        clean_session=None if v5 else clean,
    )
    seen = Peer(client)

    def note(act: Callable[[], None]) -> None:
        with seen.changed:
            act()
            seen.changed.notify_all()

    def on_connect(_client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        note(lambda: seen.__dict__.update(connack=reason, session_present=flags.session_present))

    client.on_connect = on_connect
    client.on_disconnect = lambda *_: note(lambda: seen.__dict__.update(disconnected=True))
    client.on_message = lambda _c, _d, message: note(lambda: seen.messages.append(message))
    client.on_publish = lambda _c, _d, mid, reason, _p: note(lambda: seen.acks.update({mid: reason}))
    client.on_subscribe = lambda _c, _d, mid, reasons, _p: note(lambda: seen.subacks.update({mid: reasons}))
    if address.username:
        client.username_pw_set(address.username, read_password(address))
    if (context := tls_context(address)) is not None:
        client.tls_set_context(context)
    if v5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if clean else 3600
        client.connect(address.host, address.port, clean_start=clean, properties=properties)
    else:
        client.connect(address.host, address.port)
    client.loop_start()
    try:
        if welcome:
            seen.until(lambda: seen.connack is not None and not seen.connack.is_failure, "CONNACK")
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()


def poll(condition: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """Ask until it is true."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"no {what} within {deadline_s} s"
        pause.wait(0.01)
    return value
