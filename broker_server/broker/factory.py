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

OPTIONS = "auto, embedded, mosquitto, mqtt://host[:port] or mqtts://host[:port]"


def open_broker(
    option: str,
    directory: Path,
    *,
    fleet: str,
    port: int | None = None,
    host: str = "127.0.0.1",
    names: tuple[str, ...] = (),
    pki: FleetCA | None = None,
    plain: bool = False,
    credentials: Credentials | None = None,
) -> Broker:
    """The broker that `option` names, not started yet.

    Args:
        option: ``auto`` is mosquitto where it is installed, else embedded.
        directory: where its settings, state and log go.
        port: None or 0 for any free port.
        host: address to listen on (mosquitto); ``0.0.0.0`` for all. The embedded one stays on loopback.
        names: further names and addresses under which devices know this machine (for its certificate).
        pki: the fleet's authority; mosquitto then asks every client for its certificate.
        plain: allow mosquitto without certificates, on the loopback interface only.
        credentials: files for an external broker.

    Raises:
        BrokerError: an unknown option, or one that cannot be used here.
    """
    try:
        topics = Topics(fleet)
    except RecordError as exc:
        raise BrokerError(str(exc)) from exc
    if option == "auto":
        option = "mosquitto" if find_mosquitto() else "embedded"
        if option == "embedded" and host != "127.0.0.1":
            raise BrokerError(
                f"listening on {host} needs mosquitto: apt install mosquitto, or name a broker by URL"
            )
    if option == "embedded":
        if host != "127.0.0.1":
            raise BrokerError(
                f"the embedded broker stays on 127.0.0.1, not {host}; use mosquitto for a network"
            )
        return EmbeddedBroker(directory, topics, port=port)
    if option == "mosquitto":
        return MosquittoBroker(directory, topics, port=port, host=host, names=names, pki=pki, plain=plain)
    if "://" in option:
        address = parse_broker_url(option, credentials or Credentials(), directory)
        return ExternalBroker(address, topics)
    raise BrokerError(f"unknown broker {option!r}; choose {OPTIONS}")
