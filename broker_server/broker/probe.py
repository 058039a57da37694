"""Try a broker before relying on it: connect, subscribe, publish with QoS 1, see the message come back.

Several brokers grant what they then do not do (docs/adr/0003), so the answer that counts is the
message itself. The probe is never retained and lies under the fleet's own prefix.
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from broker_server.broker.base import BrokerError
from edge_client.session.address import AddressError, BrokerAddress, read_password, tls_context
from edge_client.wire.topics import AGGREGATOR, Topics

PROBE_TIMEOUT_S = 10.0
Version = Literal["5", "3.1.1"]
_VERSIONS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_REMEDIES = {
    "Unspecified error": "see the broker's log",
    "Not authorized": "check the user name, the password file and the broker's access rules",
    "Bad user name or password": "check the user name and the password file",
    "Banned": "the broker bans this client; see its log",
    "Client identifier not valid": "the broker wants another client identifier; see its settings",
}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the broker said and did."""

    protocol: Version
    max_packet_bytes: int | None  # None where the broker does not say: always with 3.1.1
    round_trip_s: float


class _NotThisVersionError(Exception):
    """The broker does not speak this version of MQTT, or hung up instead of saying so."""


@dataclass(slots=True)
class _Seen:
    """What the callbacks noted; the network thread writes, the caller waits."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    connack: ReasonCode | None = None
    max_packet_bytes: int | None = None
    suback: ReasonCode | None = None
    payload: bytes | None = None
    disconnected: bool = False

    def note(self, **values: Any) -> None:
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()


def probe(address: BrokerAddress, topics: Topics, *, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeReport:
    """Raise `BrokerError` with a remedy unless a message makes the round trip."""
    versions: tuple[Version, ...] = ("5", "3.1.1") if address.protocol == "auto" else (address.protocol,)
    for version in versions:
        try:
            return _probe_version(address, version, topics, timeout_s)
        except _NotThisVersionError as exc:
            reason = exc
    raise BrokerError(f"{address}: {reason}")


def _probe_version(address: BrokerAddress, version: Version, topics: Topics, timeout_s: float) -> ProbeReport:
    nonce = secrets.token_hex(8)
    topic, payload = f"{topics.prefix}/selftest/{nonce}", f"bramble self-test {nonce}".encode()
    seen = _Seen()
    client_id = AGGREGATOR if address.certificate_file is None else ""  # "": named by its certificate
    client = _client(address, version, seen, f"{client_id or AGGREGATOR}-selftest-{nonce[:4]}")
    deadline = time.monotonic() + timeout_s
    with _connected(client, address, timeout_s):
        _wait(seen, "connack", deadline, address, "did not answer CONNECT")
        assert seen.connack is not None  # noqa: S101 - for the type checker; _wait saw to it
        if seen.connack.is_failure:
            _refused(seen.connack, address, version)
        started = time.monotonic()
        client.subscribe(topic, qos=1)
        _wait(seen, "suback", deadline, address, "did not acknowledge a subscription")
        if seen.suback is not None and seen.suback.is_failure:
            raise BrokerError(
                f"{address} refuses to subscribe to {topic}: let {AGGREGATOR} use {topics.prefix}/#"
            )
        client.publish(topic, payload, qos=1)
        lost = f"accepted a message on {topic} and did not deliver it: let {AGGREGATOR} use {topics.prefix}/#"
        _wait(seen, "payload", deadline, address, lost)
        if seen.payload != payload:
            raise BrokerError(f"{address} changed a message on its way; do not use this broker")
    return ProbeReport(version, seen.max_packet_bytes, time.monotonic() - started)


def _client(address: BrokerAddress, version: Version, seen: _Seen, client_id: str) -> mqtt.Client:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=_VERSIONS[version],
        reconnect_on_failure=False,
    )
    try:
        password, context = read_password(address), tls_context(address)
    except AddressError as exc:
        raise BrokerError(f"{address}: {exc}") from exc
    if address.username is not None:
        client.username_pw_set(address.username, password)
    if context is not None:
        client.tls_set_context(context)

    def on_connect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        limit = getattr(properties, "MaximumPacketSize", None)
        seen.note(connack=reason, max_packet_bytes=limit)

    client.on_connect = on_connect
    client.on_subscribe = lambda _c, _d, _mid, reasons, _p: seen.note(suback=reasons[0])
    client.on_message = lambda _c, _d, message: seen.note(payload=bytes(message.payload))
    client.on_disconnect = lambda *_: seen.note(disconnected=True)
    return client


@contextlib.contextmanager
def _connected(client: mqtt.Client, address: BrokerAddress, timeout_s: float) -> Iterator[None]:
    client.connect_timeout = timeout_s
    try:
        client.connect(address.host, address.port, keepalive=60)
    except (OSError, ValueError) as exc:
        raise BrokerError(f"{address}: {_why(exc, address)}") from exc
    client.loop_start()
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def _wait(seen: _Seen, what: str, deadline: float, address: BrokerAddress, complaint: str) -> None:
    with seen.changed:
        while getattr(seen, what) is None:
            if seen.disconnected and what == "connack":
                raise _NotThisVersionError(
                    "the connection was closed before an answer: the broker may not know this client's "
                    "certificate (or has revoked it), or the port is not an MQTT port of this kind"
                )
            left = deadline - time.monotonic()
            if seen.disconnected or left <= 0:
                raise BrokerError(f"{address} {complaint}")
            seen.changed.wait(left)


def _refused(reason: ReasonCode, address: BrokerAddress, version: Version) -> None:
    name = reason.getName()
    if name == "Unsupported protocol version":
        raise _NotThisVersionError(f"the broker does not speak MQTT {version}; use protocol 'auto'")
    raise BrokerError(f"{address} refuses the connection: {name}; {_REMEDIES.get(name, 'see its log')}")


def _why(exc: Exception, address: BrokerAddress) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}); check ca_file and the host name"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS here ({exc.reason or exc}); check the port, or use mqtt:// for a plain one"
    if isinstance(exc, ConnectionRefusedError):
        return "refused: nothing listens there; start the broker or check the port"
    if isinstance(exc, TimeoutError):
        return "no answer in time; check the address and the firewall"
    return f"{exc}; check that {address.host!r} is the broker's name"
