"""One option, three kinds of broker."""

from __future__ import annotations

from pathlib import Path

from broker_server.broker.base import Broker, BrokerError
from broker_server.broker.embedded import EmbeddedBroker
from broker_server.broker.external import Credentials, ExternalBroker, parse_broker_url
from broker_server.broker.installed import find_mosquitto
from broker_server.broker.mosquitto import MosquittoBroker
from compression.records import RecordError
from edge_client.wire.topics import Topics
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import LOOPBACK

OPTIONS = "auto, embedded, mosquitto, mqtt://host[:port] or mqtts://host[:port]"


def open_broker(
    option: str,
    directory: Path,
    *,
    fleet: str,
    port: int | None = None,
    host: str = LOOPBACK,
    names: tuple[str, ...] = (),
    pki: FleetCA | None = None,
    plain: bool = False,
    credentials: Credentials | None = None,
    closed: bool = False,
) -> Broker:
    """The broker that `option` names, not started yet.

    Args:
        option: ``auto`` is mosquitto where it is installed, else embedded.
        directory: where its settings, state and log go.
        port: None or 0 for any free port.
        host: address to listen on; ``0.0.0.0`` for all. Without certificates a broker stays on loopback,
            unless `closed`.
        names: further names and addresses under which devices know this machine (for its certificate).
        pki: the fleet's authority; mosquitto then asks every client for its certificate.
        plain: allow mosquitto without certificates.
        credentials: files for an external broker.
        closed: only the fleet reaches `host`, as in a benchmark's network namespaces.

    Raises:
        BrokerError: an unknown option, or one that cannot be used here.
    """
    try:
        topics = Topics(fleet)
    except RecordError as exc:
        raise BrokerError(str(exc)) from exc
    if option == "auto":
        option = "mosquitto" if find_mosquitto() else "embedded"
        if option == "embedded" and host != LOOPBACK and not closed:
            raise BrokerError(
                f"listening on {host} needs mosquitto: apt install mosquitto, or name a broker by URL"
            )
    if option == "embedded":
        if host != LOOPBACK and not closed:
            raise BrokerError(
                f"the embedded broker stays on {LOOPBACK}, not {host}; use mosquitto for a network"
            )
        return EmbeddedBroker(directory, topics, port=port, host=host)
    if option == "mosquitto":
        return MosquittoBroker(
            directory, topics, port=port, host=host, names=names, pki=pki, plain=plain, closed=closed
        )
    if "://" in option:
        address = parse_broker_url(option, credentials or Credentials(), directory)
        return ExternalBroker(address, topics)
    raise BrokerError(f"unknown broker {option!r}; choose {OPTIONS}")
