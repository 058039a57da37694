"""The fleet's certificate authority: one directory, one key, three kinds of certificate.

::

    ca.key        private key, 0600; whoever reads it can be any device: keep the directory to yourself
    ca.crt        what every device and the server trust
    ca.crl        revoked certificates, read by the broker
    ledger.json   what was issued and revoked

A *server* certificate names the broker's host names and addresses and may only serve; a *device* or
*aggregator* certificate carries its name as common name and may only be a client. The broker takes that
common name as the user, so one name is one identity. Times are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_client.enrolment.keys import new_key, private_pem
from edge_client.wire.topics import AGGREGATOR
from provisioning.pki.certificates import (
    BACKDATE,
    fingerprint,
    general_name,
    load_certificate,
    self_signed,
    template,
)
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PUBLIC, write_file
from provisioning.pki.keys import (
    check_name,
    load_private_key,
    new_private_key,
)
from provisioning.pki.ledger import (
    Issued,
    Ledger,
    Role,
    format_time,
    load_ledger,
    locked,
    parse_time,
    save_ledger,
)
from provisioning.pki.requests import checked_public_key

CERTIFICATE_DAYS = 825  # the most that Apple's TLS accepts of a private authority; devices renew long before
MAX_CERTIFICATE_DAYS = 1825
CRL_DAYS = 3650  # an expired list would lock the whole fleet out; a new one is written at each revocation
STAND_IN = timedelta(minutes=5)
BROKER = "broker"  # common name of server certificates; who they are for stands in their host names
RESERVED_NAMES = (AGGREGATOR, BROKER)


class FleetCA:
    """The authority in one directory. Made by `create` or `open`."""

    def __init__(self, directory: Path) -> None:
        """Use `open`, which checks that the pieces are there and fit."""
        self.directory = directory
        self._key = load_private_key(self.key_file)
        self._certificate = load_certificate(self.certificate_file)
        if self._key.public_key() != self._certificate.public_key():
            raise PkiError(
                f"{self.key_file} is not the key of {self.certificate_file}; restore them from a backup"
            )

    @property
    def key_file(self) -> Path:
        return self.directory / "ca.key"

    @property
    def certificate_file(self) -> Path:
        """What clients and the broker trust."""
        return self.directory / "ca.crt"

    @property
    def crl_file(self) -> Path:
        """The revocation list that the broker reads."""
        return self.directory / "ca.crl"

    @property
    def ledger_file(self) -> Path:
        return self.directory / "ledger.json"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, to pin it."""
        return fingerprint(self._certificate)

    @property
    def not_after(self) -> datetime:
        return self._certificate.not_valid_after_utc

    @classmethod
    def create(cls, directory: Path, fleet: str, *, now: datetime | None = None) -> FleetCA:
        """A new authority; nothing that is there is ever replaced."""
        check_name(fleet)
        if any((directory / name).exists() for name in ("ca.key", "ca.crt", "ledger.json")):
            raise PkiError(f"{directory} holds an authority already; choose another directory")
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise PkiError(f"{directory}: {exc.strerror or exc}") from exc
        now = now or datetime.now(UTC)
        with locked(directory):
            key = new_private_key(directory / "ca.key")
            write_file(directory / "ca.crt", self_signed(key, fleet, now))
            save_ledger(directory / "ledger.json", Ledger(fleet))
            authority = cls(directory)
            authority._write_crl(Ledger(fleet), now)
        return authority

    @classmethod
    def open(cls, directory: Path) -> FleetCA:
        """An authority that `create` made. Writes nothing, unless a revocation was cut short."""
        if not (directory / "ca.key").exists():
            raise PkiError(f"{directory} holds no authority; make one with: bramble-provision ca init")
        authority = cls(directory)
        if authority._crl_number() != authority.ledger().crl_number:  # or another process is at it just now
            with locked(directory):
                ledger = authority.ledger()
                if authority._crl_number() != ledger.crl_number:
                    authority._write_crl(ledger, datetime.now(UTC))
        return authority

    def ledger(self) -> Ledger:
        """What was issued and revoked until now."""
        return load_ledger(self.ledger_file)

    def revocations(self) -> tuple[bytes, tuple[str, ...]]:
        """The list (PEM) and the names that it shuts out, of one moment: never the one without the other."""
        with locked(self.directory):
            return self.crl_file.read_bytes(), self.ledger().revoked_names()

    def sign_csr(
        self,
        request: bytes,
        expected_name: str,
        *,
        role: Role = "device",
        days: int = CERTIFICATE_DAYS,
        now: datetime | None = None,
        replacing: bool = False,
        renewing: str | None = None,
    ) -> bytes:
        """The certificate (PEM) for a request by the client `expected_name`.

        With `replacing`, the name's other certificates are revoked in the same step, so that it is never
        without one: a card that was made anew takes the place of the old card. `renewing` is the
        fingerprint of the certificate that gives the right to this one.

        Raises:
            PkiError: the request asks for another name or for more than a name, its key is weak, or the
                certificate that is renewed was revoked meanwhile.
        """
        if role == "server":
            raise PkiError("server certificates are made by issue_server, with the host names they need")
        if expected_name != AGGREGATOR if role == "aggregator" else expected_name in RESERVED_NAMES:
            raise PkiError(
                f"the names {', '.join(RESERVED_NAMES)} are for the server's side, got {expected_name!r}"
            )
        now = now or datetime.now(UTC)
        end = self._end(days, now)
        key = checked_public_key(request, expected_name)
        return self._issue(key, expected_name, role, now=now, end=end, replacing=replacing, renewing=renewing)

    def issue_server(
        self,
        key_file: Path,
        hosts: Sequence[str],
        *,
        days: int = CERTIFICATE_DAYS,
        now: datetime | None = None,
    ) -> bytes:
        """The broker's certificate (PEM) for its host names and IP addresses; its key is made if absent."""
        if not hosts:
            raise PkiError("a server certificate needs at least one host name or address")
        names = [general_name(host) for host in dict.fromkeys(hosts)]
        now = now or datetime.now(UTC)
        end = self._end(days, now)  # before a key is written
        key = load_private_key(key_file) if key_file.exists() else new_private_key(key_file)
        return self._issue(key.public_key(), BROKER, "server", now=now, end=end, hosts=names)

    def revoke(self, name: str, *, now: datetime | None = None) -> tuple[Issued, ...]:
        """Revoke every certificate of `name` and write the list; return those that were still good."""
        now = now or datetime.now(UTC)
        with locked(self.directory):
            ledger = self.ledger()
            good = tuple(entry for entry in ledger.of(check_name(name)) if entry.revoked_at is None)
            if not good:
                if ledger.of(name):
                    raise PkiError(f"{name!r} has only revoked certificates; see: bramble-provision ca list")
                raise PkiError(
                    f"{name!r} was never issued a certificate; an unused token is revoked by: "
                    f"bramble-provision token revoke {name}"
                )
            ledger = replace(ledger.with_revoked(name, now), crl_number=ledger.crl_number + 1)
            save_ledger(self.ledger_file, ledger)  # first: the list can be made again from it
            self._write_crl(ledger, now)
        return good

    def stand_in(self, name: str, *, now: datetime | None = None) -> tuple[bytes, bytes]:
        """A key and a certificate (PEM) in the name of a client, for `STAND_IN` and for this process only.

        The server uses it to take a revoked device's place at the broker and so end its connection.
        """
        now = now or datetime.now(UTC)
        key = new_key()
        builder = template(self._certificate, key.public_key(), check_name(name), "device")
        builder = builder.not_valid_before(now - BACKDATE).not_valid_after(now + STAND_IN)
        certificate = builder.serial_number(x509.random_serial_number()).sign(self._key, hashes.SHA256())
        return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)

    def _end(self, days: int, now: datetime) -> datetime:
        """When a certificate made now for so many days ends: never after the authority itself."""
        if not 1 <= days <= MAX_CERTIFICATE_DAYS:
            raise PkiError(f"validity must be from 1 to {MAX_CERTIFICATE_DAYS} days, got {days}")
        if self.not_after <= now:
            raise PkiError(f"the authority expired on {format_time(self.not_after)}; make a new one")
        return min(now + timedelta(days=days), self.not_after)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        role: Role,
        *,
        now: datetime,
        end: datetime,
        hosts: Sequence[x509.GeneralName] = (),
        replacing: bool = False,
        renewing: str | None = None,
    ) -> bytes:
        builder = template(self._certificate, key, name, role).not_valid_before(now - BACKDATE)
        builder = builder.not_valid_after(end).serial_number(x509.random_serial_number())
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        with locked(self.directory):
            ledger = self.ledger()
            if renewing is not None and not ledger.stands(renewing):
                raise PkiError(f"{name} was revoked while its certificate was renewed")
            certificate = builder.sign(self._key, hashes.SHA256())
            entry = Issued(
                name,
                role,
                f"{certificate.serial_number:x}",
                fingerprint(certificate),
                format_time(certificate.not_valid_before_utc),
                format_time(certificate.not_valid_after_utc),
            )
            replaced = replacing and any(old.revoked_at is None for old in ledger.of(name))
            if replaced:
                ledger = replace(ledger.with_revoked(name, now), crl_number=ledger.crl_number + 1)
            save_ledger(self.ledger_file, replace(ledger, issued=(*ledger.issued, entry)))
            if replaced:
                self._write_crl(self.ledger(), now)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _crl_number(self) -> int | None:
        """Number of the list on disk, None where there is none that can be read."""
        try:
            crl = x509.load_pem_x509_crl(self.crl_file.read_bytes())
            return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (OSError, ValueError, x509.ExtensionNotFound):
            return None

    def _write_crl(self, ledger: Ledger, now: datetime) -> None:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + timedelta(days=CRL_DAYS))
            .add_extension(x509.CRLNumber(ledger.crl_number), critical=False)
        )
        for entry in ledger.issued:
            if entry.revoked_at is not None:
                revoked = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
                revoked = revoked.revocation_date(parse_time(entry.revoked_at))
                builder = builder.add_revoked_certificate(revoked.build())
        crl = builder.sign(self._key, hashes.SHA256())
        write_file(self.crl_file, crl.public_bytes(serialization.Encoding.PEM), mode=PUBLIC)
