"""A broker that somebody else runs, named by a URL and tried before it is relied on."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from broker_server.broker.base import MAX_PACKET_BYTES, Broker, BrokerError
from broker_server.broker.probe import ProbeReport, probe
from broker_server.broker.sockets import is_listening
from compression.records import RecordError
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import Topics
from provisioning.pki.files import PRIVATE, write_file

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files that prove who we are to an external broker."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    password_file: Path | None = None


def parse_broker_url(url: str, credentials: Credentials, directory: Path) -> BrokerAddress:
    """``mqtt[s]://[user[:password]@]host[:port]``; a password is moved to a private file in `directory`.

    Raises:
        BrokerError: the URL is something else; the message never repeats its password.
    """
    shown = _without_password(url)
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as exc:
        raise BrokerError(f"broker {shown!r}: {exc}; write mqtt://host:port or mqtts://host:port") from exc
    if (
        scheme not in DEFAULT_PORTS
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise BrokerError(f"broker {shown!r}: write mqtt://[user:password@]host[:port] or mqtts://...")
    if scheme == "mqtt" and (credentials.ca_file or credentials.certificate_file):
        raise BrokerError(f"broker {shown!r}: certificate files need mqtts://, mqtt:// is not encrypted")
    password_file = credentials.password_file
    if parts.password is not None:
        password_file = directory / "broker.password"
    try:
        address = BrokerAddress(
            host=host,
            port=DEFAULT_PORTS[scheme] if port is None else port,
            username=unquote(parts.username) if parts.username else None,
            password_file=_text(password_file),
            ca_file=_text(credentials.ca_file) or (_system_authorities() if scheme == "mqtts" else None),
            certificate_file=_text(credentials.certificate_file),
            key_file=_text(credentials.key_file),
        )
    except RecordError as exc:
        raise BrokerError(f"broker {shown!r}: {exc}") from exc
    if parts.password is not None and password_file is not None:
        directory.mkdir(parents=True, exist_ok=True)
        write_file(password_file, unquote(parts.password).encode() + b"\n", mode=PRIVATE)
    return address


class ExternalBroker(Broker):
    """A broker by URL. Starting it means trying it; stopping it means nothing."""

    kind = "external"

    def __init__(self, address: BrokerAddress, topics: Topics) -> None:
        self._address, self._topics = address, topics
        self._report: ProbeReport | None = None

    @property
    def report(self) -> ProbeReport | None:
        """What the self-test found, once started."""
        return self._report

    def start(self) -> None:
        report = probe(self._address, self._topics)
        if report.max_packet_bytes is not None and report.max_packet_bytes < MIN_PACKET_BYTES:
            raise BrokerError(
                f"{self._address} takes packets of {report.max_packet_bytes} bytes at most, chunks need "
                f"{MIN_PACKET_BYTES}; raise its maximum packet size, to {MAX_PACKET_BYTES} for instance"
            )
        self._report = report
        self._address = replace(self._address, protocol=report.protocol)

    def stop(self) -> None:
        return

    def restart(self) -> None:
        self.start()

    def alive(self) -> bool:
        return is_listening(self._address.host, self._address.port)

    def describe(self) -> str:
        if self._report is None:
            return f"external at {self._address}, not tried yet"
        limit = self._report.max_packet_bytes
        size = f"packets up to {limit} bytes" if limit else "packet size limit not announced"
        return f"external at {self._address}, MQTT {self._report.protocol}, {size}"

    def server_address(self) -> BrokerAddress:
        return self._address

    def device_address(self, name: str) -> BrokerAddress:  # noqa: ARG002 - one account for all; its ACL is not ours
        return self._address


# A 128 KiB chunk with its header, topic and packet framing.
MIN_PACKET_BYTES = 128 * 1024 + 1024


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _system_authorities() -> str:
    found = ssl.get_default_verify_paths().cafile
    if found is None:
        raise BrokerError("this machine has no list of certificate authorities; name one with ca_file")
    return found


def _without_password(url: str) -> str:
    head, separator, rest = url.rpartition("@")
    if not separator:
        return url
    return f"{head.split('://')[0]}://***@{rest}"
