"""One short connection to a broker, with every way it can fail told in one line and a remedy.

For trying a broker out and for putting a client off it; the fleet itself talks through
`edge_client.session`.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker_server.broker.base import BrokerError
from edge_client.session.address import AddressError, BrokerAddress, read_password, tls_context

Version = Literal["5", "3.1.1"]
KEPT_SESSION_S = 7 * 86_400
_VERSIONS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_REMEDIES = {
    "Not authorized": "check the user name, the password file and the broker's access rules",
    "Bad user name or password": "check the user name and the password file",
    "Client identifier not valid": "the broker wants another client identifier; see its settings",
}


class WrongVersionError(BrokerError):
    """The broker does not speak this version of MQTT, or hung up instead of saying so."""


@dataclass(slots=True)
class Link:
    """What the callbacks noted: the network thread writes, the caller waits."""

    address: BrokerAddress
    deadline: float
    changed: threading.Condition = field(default_factory=threading.Condition)
    connack: ReasonCode | None = None
    session_present: bool = False
    max_packet_bytes: int | None = None
    suback: ReasonCode | None = None
    payload: bytes | None = None
    disconnected: bool = False

    def note(self, **values: Any) -> None:
        """Record what happened and wake whoever waits for it."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait(self, what: Literal["connack", "suback", "payload"], complaint: str) -> Any:
        """The value once it is there; `BrokerError` with `complaint` when time or connection is lost."""
        with self.changed:
            while getattr(self, what) is None:
                left = self.deadline - time.monotonic()
                if self.disconnected or left <= 0:
                    raise BrokerError(f"{self.address} {complaint}")
                self.changed.wait(left)
            return getattr(self, what)


@contextlib.contextmanager
def linked(
    address: BrokerAddress, version: Version, client_id: str, *, timeout_s: float, clean: bool = True
) -> Iterator[tuple[mqtt.Client, Link]]:
    """A connection that the broker accepted; it is closed on leaving.

    With `clean` false an MQTT 5 session that is there already is neither emptied nor shortened.

    Raises:
        WrongVersionError, BrokerError: as the module says.
    """
    link = Link(address, time.monotonic() + timeout_s)
    client = _client(address, version, client_id, link)
    client.connect_timeout = timeout_s
    try:
        if version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if clean else KEPT_SESSION_S
            client.connect(address.host, address.port, clean_start=clean, properties=properties)
        else:
            client.connect(address.host, address.port)
    except (OSError, ValueError) as exc:
        raise BrokerError(f"{address}: {_why(exc, address)}") from exc
    client.loop_start()
    try:
        _await_welcome(link, version)
        yield client, link
    finally:
        client.disconnect()
        client.loop_stop()


def forget_session(client: mqtt.Client) -> None:
    """End the connection and the MQTT 5 session with it."""
    properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 0
    client.disconnect(properties=properties)


def _client(address: BrokerAddress, version: Version, client_id: str, link: Link) -> mqtt.Client:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=_VERSIONS[version],
        reconnect_on_failure=False,
        manual_ack=True,  # what waits in a session that is there already is not ours to take
    )
    try:
        password, context = read_password(address), tls_context(address)
    except AddressError as exc:
        raise BrokerError(f"{address}: {exc}") from exc
    if address.username is not None:
        client.username_pw_set(address.username, password)
    if context is not None:
        client.tls_set_context(context)

    def on_connect(_client: Any, _data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        limit = getattr(properties, "MaximumPacketSize", None)
        link.note(connack=reason, session_present=flags.session_present, max_packet_bytes=limit)

    client.on_connect = on_connect
    client.on_subscribe = lambda _client, _data, _mid, reasons, _properties: link.note(suback=reasons[0])
    client.on_message = lambda _client, _data, message: link.note(payload=bytes(message.payload))
    client.on_disconnect = lambda *_: link.note(disconnected=True)
    return client


def _await_welcome(link: Link, version: Version) -> None:
    try:
        reason: ReasonCode = link.wait("connack", f"did not answer in time; is it an MQTT {version} broker?")
    except BrokerError as exc:
        if not link.disconnected:  # amqtt meets version 5 with silence
            raise WrongVersionError(str(exc)) from exc
        raise WrongVersionError(
            f"{link.address} closed the connection without an answer: it may not know this client's "
            "certificate (or has revoked it), or this is not an MQTT port of this kind"
        ) from exc
    if not reason.is_failure:
        return
    name = reason.getName()
    if name == "Unsupported protocol version":
        raise WrongVersionError(f"{link.address} does not speak MQTT {version}; use protocol 'auto'")
    raise BrokerError(f"{link.address} refuses: {name}; {_REMEDIES.get(name, 'see its log')}")


def _why(exc: Exception, address: BrokerAddress) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}); check ca_file and the host name"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS here ({exc.reason or exc}); check the port, or use mqtt:// for a plain one"
    if isinstance(exc, ConnectionRefusedError):
        return "refused: nothing listens there; start the broker or check the port"
    if isinstance(exc, ConnectionResetError) and address.ca_file is not None:
        return "it hung up on TLS; check the port, or use mqtt:// for a plain one"
    if isinstance(exc, TimeoutError):
        return "no answer in time; check the address and the firewall"
    return f"{exc}; check that {address.host!r} is the broker's name"
