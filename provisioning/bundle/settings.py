"""``edge.toml`` of one card, with the places that the units use."""

from __future__ import annotations

from typing import Any

import tomli_w

from compression.records import to_plain
from edge_client.config import EdgeConfig, EnrolmentConfig
from edge_client.session.address import BrokerAddress
from provisioning.card import Card, EnrolmentToken
from provisioning.systemd.units import STATE

FOLDER = "/etc/bramble"
CA_FILE = f"{FOLDER}/ca.crt"
KEY_FILE, CERTIFICATE_FILE, TOKEN_FILE = "device.key", "device.crt", "token"


def edge_config(card: Card) -> EdgeConfig:
    """The settings of a card's client."""
    identity = f"{STATE}/identity"
    broker = BrokerAddress(
        host=card.access.broker.host,
        port=card.access.broker.port,
        ca_file=CA_FILE,
        certificate_file=f"{identity}/{CERTIFICATE_FILE}",
        key_file=f"{identity}/{KEY_FILE}",
    )
    enrolment = None
    if card.access.enrolment is not None:
        token = f"{identity}/{TOKEN_FILE}" if isinstance(card.identity, EnrolmentToken) else None
        enrolment = EnrolmentConfig(
            host=card.access.enrolment.host, port=card.access.enrolment.port, token_file=token
        )
    return EdgeConfig(
        name=card.name,
        fleet=card.access.fleet,
        server_key=card.access.server_key,
        state=STATE,
        broker=broker,
        data=card.data,
        enrolment=enrolment,
    )


def edge_toml(card: Card) -> bytes:
    """The settings file."""
    return tomli_w.dumps(_without_none(to_plain(edge_config(card)))).encode()


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: a key that is left out is None."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
