"""Where the broker is and how to be known there: one value for devices, the server and the tools.

A certificate authority file means TLS; a certificate and a key file mean mutual TLS. Secrets are named
by path, so that an address can be printed, logged and kept in a settings file.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from compression.errors import BrambleError
from compression.records import Between, Length, Record, RecordError
from edge_client.session.tls import ClientContext

Protocol = Literal["auto", "5", "3.1.1"]
FilePath = Annotated[str, Length(1, 4096)]
MAX_PASSWORD_BYTES = 4096  # a password file that is longer is some other file


class AddressError(BrambleError, ValueError):
    """A file that the address names is missing, unreadable or not what it should be."""


@dataclass(frozen=True, slots=True)
class BrokerAddress(Record):
    """How one client reaches the broker. ``auto`` tries MQTT 5 first, then 3.1.1."""

    host: Annotated[str, Length(1, 253)]
    port: Annotated[int, Between(1, 65535)]
    protocol: Protocol = "auto"
    username: Annotated[str, Length(1, 256)] | None = None
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if (self.certificate_file is None) != (self.key_file is None):
            raise RecordError(
                "BrokerAddress: certificate_file and key_file go together; give both or neither"
            )
        if self.certificate_file is not None and self.ca_file is None:
            raise RecordError("BrokerAddress: certificate_file needs ca_file, or the broker is not checked")
        if self.password_file is not None and self.username is None:
            raise RecordError("BrokerAddress: password_file needs username")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.ca_file else 'mqtt'}://{host}:{self.port}"


def read_password(address: BrokerAddress) -> str | None:
    """The password from its file, without the end of the line; None where the address names no file."""
    if address.password_file is None:
        return None
    data = _read(address.password_file, "password_file")
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise AddressError(f"password_file {address.password_file}: not UTF-8 text") from exc
    if not text or len(data) > MAX_PASSWORD_BYTES or "\n" in text:
        raise AddressError(f"password_file {address.password_file}: must hold one line with the password")
    return text


def tls_context(address: BrokerAddress) -> ClientContext | None:
    """The client's TLS settings; None where the address is plain.

    Raises:
        AddressError: a file is missing, unreadable or not PEM, or the key is not the certificate's.
    """
    if address.ca_file is None:
        return None
    _read(address.ca_file, "ca_file")
    try:
        context = ClientContext.trusting(address.ca_file)
    except ssl.SSLError as exc:
        raise AddressError(f"ca_file {address.ca_file}: holds no PEM certificate") from exc
    if address.certificate_file is not None and address.key_file is not None:
        _load_identity(context, address.certificate_file, address.key_file)
    return context


def _load_identity(context: ClientContext, certificate_file: str, key_file: str) -> None:
    _read(certificate_file, "certificate_file")
    _read(key_file, "key_file")
    try:
        context.use_identity(certificate_file, key_file)
    except (ssl.SSLError, ValueError) as exc:
        raise AddressError(
            f"certificate_file {certificate_file} and key_file {key_file}: not PEM, encrypted, or not a pair"
        ) from exc


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise AddressError(f"{field} {path}: {exc.strerror or exc}") from exc
