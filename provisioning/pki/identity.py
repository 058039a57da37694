"""A client's three files in one directory, made and kept good where the authority is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from edge_client.wire.topics import AGGREGATOR
from provisioning.pki.authority import FleetCA
from provisioning.pki.certificates import fingerprint, load_certificate
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PUBLIC, write_file
from provisioning.pki.keys import CA_FILE, CERTIFICATE_FILE, KEY_FILE, make_device_key_and_csr, read_pem
from provisioning.pki.ledger import Role

RENEW_BEFORE = timedelta(days=30)
LOOPBACK = "127.0.0.1"
ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a client finds what it needs for mutual TLS."""

    key_file: Path
    certificate_file: Path
    ca_file: Path


def ensure_identity(
    authority: FleetCA, directory: Path, name: str, *, now: datetime | None = None
) -> Identity:
    """The identity of `name` in `directory`, issued or renewed if need be.

    For clients on the authority's own machine (the aggregator, a demo's devices) and for fleets that are
    prepared offline; elsewhere the key stays on the device and only its request travels.

    Raises:
        PkiError: `name` was revoked. It comes back only if a person issues it a certificate again.
    """
    now = now or datetime.now(UTC)
    identity = Identity(directory / KEY_FILE, directory / CERTIFICATE_FILE, directory / CA_FILE)
    if name in authority.ledger().revoked_names():
        raise PkiError(f"{name!r} is revoked; issue it again with: bramble-provision ca issue {name}")
    if not _is_good(authority, identity, now):
        request = make_device_key_and_csr(directory, name)
        role: Role = "aggregator" if name == AGGREGATOR else "device"
        certificate = authority.sign_csr(request, name, role=role, now=now)
        write_file(identity.certificate_file, certificate, mode=PUBLIC)
    write_file(identity.ca_file, read_pem(authority.certificate_file), mode=PUBLIC)
    return identity


def ensure_server_certificate(
    authority: FleetCA,
    key_file: Path,
    certificate_file: Path,
    hosts: Sequence[str],
    *,
    now: datetime | None = None,
) -> None:
    """The broker's certificate for exactly `hosts`, issued or renewed if need be; the key stays."""
    now = now or datetime.now(UTC)
    identity = Identity(key_file, certificate_file, authority.certificate_file)
    if _is_good(authority, identity, now) and server_names(certificate_file) == set(hosts):
        return
    write_file(certificate_file, authority.issue_server(key_file, hosts, now=now), mode=PUBLIC)


def listening_names(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """What the certificate of a service on `host` says, if devices know this machine by `names` as well."""
    listening = [] if host in ALL_INTERFACES else [host]
    return tuple(dict.fromkeys([*names, *listening, "localhost", LOOPBACK]))


def server_names(certificate_file: Path) -> set[str]:
    """The host names and addresses that a server certificate is for."""
    extensions = load_certificate(certificate_file).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = names.get_values_for_type(x509.DNSName)
    return {*hosts, *map(str, names.get_values_for_type(x509.IPAddress))}


def _is_good(authority: FleetCA, identity: Identity, now: datetime) -> bool:
    """Whether the certificate there is ours, not revoked and good for a while."""
    if not (identity.certificate_file.exists() and identity.key_file.exists()):
        return False
    certificate = load_certificate(identity.certificate_file)
    mark = fingerprint(certificate)
    entry = next((entry for entry in authority.ledger().issued if entry.fingerprint == mark), None)
    return (
        entry is not None
        and entry.revoked_at is None
        and certificate.not_valid_after_utc > now + RENEW_BEFORE
    )
