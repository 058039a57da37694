"""Try a broker before relying on it: connect, subscribe, publish with QoS 1, see the message come back.

Several brokers grant what they then do not do (docs/adr/0003), so the answer that counts is the
message itself. The probe is never retained and lies under the fleet's own prefix.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from broker_server.broker.base import BrokerError
from broker_server.broker.link import Version, WrongVersionError, forget_session, linked
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import AGGREGATOR, Topics

PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the broker said and did."""

    protocol: Version
    max_packet_bytes: int | None  # None where the broker does not say: always with 3.1.1
    round_trip_s: float | None  # None where it was not tried, see `_try_version`


def probe(address: BrokerAddress, topics: Topics, *, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeReport:
    """Raise `BrokerError` with a remedy unless a message makes the round trip."""
    if address.protocol != "auto":
        return _try_version(address, address.protocol, topics, timeout_s)
    try:
        return _try_version(address, "5", topics, timeout_s / 3)
    except WrongVersionError:
        return _try_version(address, "3.1.1", topics, timeout_s)


def _try_version(address: BrokerAddress, version: Version, topics: Topics, timeout_s: float) -> ProbeReport:
    """Connect under an identifier of our own.

    A broker that names clients by their certificate hands us the aggregator's session all the same. If
    one is there (a server that comes back), its queue must survive, so nothing is sent or taken.
    """
    nonce = secrets.token_hex(8)
    client_id = f"{AGGREGATOR}-selftest-{nonce}"
    with linked(address, version, client_id, timeout_s=timeout_s, clean=False) as (client, link):
        if link.session_present:
            return ProbeReport(version, link.max_packet_bytes, None)
        topic, payload = f"{topics.prefix}/selftest/{nonce}", nonce.encode()
        rule = f"let {address.username or AGGREGATOR} read and write {topics.prefix}/#"
        started = time.monotonic()
        client.subscribe(topic, qos=1)
        if link.wait("suback", "did not acknowledge a subscription").is_failure:
            raise BrokerError(f"{address} refuses a subscription to {topic}: {rule}")
        client.publish(topic, payload, qos=1)
        if link.wait("payload", f"took a message on {topic} and did not deliver it: {rule}") != payload:
            raise BrokerError(f"{address} changed a message on its way; do not use this broker")
        elapsed_s = time.monotonic() - started
        if version == "5":
            forget_session(client)
    return ProbeReport(version, link.max_packet_bytes, elapsed_s)
