"""The rules of enrolment, without a network: who gets a certificate for what, and who does not.

A token is used and its certificate kept in one transaction. A crash before the end of it leaves the token
unused; a crash after it, or a lost answer, is mended by asking again: the same key gets the same certificate.
Two keys with one token: the first one has it, the second one is refused.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from edge_client.enrolment.identity import is_due
from edge_client.wire.enrolment import EnrolRequest, RenewRequest, StepReport
from provisioning.enrolment.errors import RefusedError
from provisioning.enrolment.store import DeviceRow, EnrolmentStore, TokenRow, Transaction
from provisioning.enrolment.tokens import find_token, revocations
from provisioning.pki.authority import FleetCA
from provisioning.pki.certificates import fingerprint
from provisioning.pki.errors import PkiError
from provisioning.pki.ledger import Issued, Ledger, format_time
from provisioning.pki.requests import checked_public_key

log = logging.getLogger(__name__)

DEVICE_DAYS = 365  # renewed with a third of it left: a device may lie in a drawer for four months
OURS = ("flash", "joined")  # steps that a device may not claim: `watch` says what was seen
NEW_TOKEN = "make a new one with: bramble-provision token issue"  # noqa: S105 - what a person is to do


class EnrolmentDesk:
    """Decides on requests. `clock` gives the present, in UTC."""

    def __init__(
        self,
        authority: FleetCA,
        *,
        days: int = DEVICE_DAYS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._authority, self._days, self._clock = authority, days, clock
        self._store = EnrolmentStore(authority.directory)

    def enrol(self, request: EnrolRequest, token: str) -> str:
        """The certificate (PEM) for a token and the key that it was first used with.

        Raises:
            RefusedError: with the reason; where the token is real, the device's progress shows it too.
            PkiError: the authority cannot sign now.
        """
        now = self._clock()
        with self._store.transaction() as t:
            row = _token(t, request.name, token)
            try:
                return self._issue_once(t, row, request, now)
            except RefusedError as exc:
                refusal = exc
            report = StepReport(request.name, "enrol", "failed", str(refusal)[:200])
            t.keep_step(report, now.timestamp())
        raise refusal

    def renew(self, request: RenewRequest, presented: bytes) -> str:
        """The newest certificate (PEM) for the holder of one (DER): a new one, once a third of it is left."""
        now = self._clock()
        ledger, certificate = self._authority.ledger(), x509.load_der_x509_certificate(presented)
        entry = _member(ledger, certificate, now)
        if _key_hash(_public_key(request.csr, entry.name)) != _key_hash(certificate.public_key()):
            raise RefusedError(403, f"a renewal keeps its key; for another one {NEW_TOKEN} {entry.name}")
        with self._store.transaction() as t:
            device = t.device(entry.name) or DeviceRow(entry.name, _pem(certificate), None, "", "")
            newest = _newer(certificate, device.certificate, ledger)
            if not is_due(newest, now):
                return _pem(newest).decode("ascii")
            pem = self._authority.sign_csr(
                request.csr.encode("ascii"),
                entry.name,
                days=self._days,
                now=now,
                renewing=entry.fingerprint,  # it may have been revoked since the ledger was read
            )
            t.keep_device(replace(device, certificate=pem))
        log.info("%s has renewed its certificate", entry.name)
        return pem.decode("ascii")

    def report(self, report: StepReport, *, token: str | None = None, presented: bytes | None = None) -> None:
        """Keep a step of a device, which proves itself by an unused token or by its certificate (DER)."""
        now = self._clock()
        if report.step in OURS:
            raise RefusedError(403, f"{report.step} is for the workstation to say")
        if presented is not None:
            name = _member(self._authority.ledger(), x509.load_der_x509_certificate(presented), now).name
            if name != report.name:
                raise RefusedError(403, f"the certificate is {name}'s, not {report.name}'s")
        with self._store.transaction() as t:
            if presented is None:
                _check_unused(_token(t, report.name, token or ""), now)
            t.keep_step(report, now.timestamp())

    def joined(self, name: str) -> None:
        """The server has heard a device over the broker."""
        with self._store.transaction() as t:
            t.keep_step(StepReport(name, "joined", "ok"), self._clock().timestamp())

    def _issue_once(self, t: Transaction, row: TokenRow, request: EnrolRequest, now: datetime) -> str:
        key, ledger = _key_hash(_public_key(request.csr, request.name)), self._authority.ledger()
        if row.key is not None:
            return _issued_before(row, key, t.device(row.name), ledger)
        _check_unused(row, now)
        if row.name in ledger.revoked_names() and revocations(ledger, row.name) > row.revocations:
            raise RefusedError(
                403, f"{row.name} was revoked after this token was made; {NEW_TOKEN} {row.name}"
            )
        pem = self._authority.sign_csr(
            request.csr.encode("ascii"), row.name, days=self._days, now=now, replacing=True
        )
        t.use(row.id, key, now.timestamp())
        t.keep_device(DeviceRow(row.name, pem, row.id, request.serial, request.model))
        log.info("%s is enrolled (board %s)", row.name, request.serial or "without a serial number")
        return pem.decode("ascii")


def _token(t: Transaction, name: str, token: str) -> TokenRow:
    row = find_token(t.tokens(name), token)
    if row is None:
        raise RefusedError(401, f"the token is none of {name}'s; {NEW_TOKEN} {name}")
    return row


def _check_unused(row: TokenRow, now: datetime) -> None:
    if row.withdrawn is not None:
        raise RefusedError(
            403, f"the token of {row.name} works no more: {row.withdrawn}; {NEW_TOKEN} {row.name}"
        )
    if row.key is not None:
        raise RefusedError(409, f"the token of {row.name} was used; a report needs the certificate now")
    if now.timestamp() > row.expires:
        end = format_time(datetime.fromtimestamp(row.expires, UTC))
        raise RefusedError(410, f"the token of {row.name} expired at {end}; {NEW_TOKEN} {row.name}")


def _issued_before(row: TokenRow, key: bytes, device: DeviceRow | None, ledger: Ledger) -> str:
    """What a used token got, for the key that used it."""
    if row.key != key:
        raise RefusedError(409, f"the token of {row.name} was used by another key; {NEW_TOKEN} {row.name}")
    if device is None or device.token != row.id:
        raise RefusedError(403, f"a newer card took the place of this {row.name}")
    entry = _entry(ledger, x509.load_pem_x509_certificate(device.certificate))
    if entry is None or entry.revoked_at is not None:
        raise RefusedError(403, f"{row.name} was revoked; {NEW_TOKEN} {row.name}")
    return device.certificate.decode("ascii")


def _member(ledger: Ledger, certificate: x509.Certificate, now: datetime) -> Issued:
    """The device that a certificate stands for; TLS has proved that it holds the key."""
    entry = _entry(ledger, certificate)
    if entry is None or entry.role != "device":
        raise RefusedError(403, "the certificate is not one that this fleet gave to a device")
    if (state := entry.state(now)) != "valid":
        raise RefusedError(403, f"the certificate of {entry.name} is {state}; {NEW_TOKEN} {entry.name}")
    return entry


def _entry(ledger: Ledger, certificate: x509.Certificate) -> Issued | None:
    mark = fingerprint(certificate)
    return next((entry for entry in ledger.issued if entry.fingerprint == mark), None)


def _newer(presented: x509.Certificate, kept: bytes, ledger: Ledger) -> x509.Certificate:
    """The newest certificate of this key that counts: an answer to an earlier renewal may have been lost."""
    last = x509.load_pem_x509_certificate(kept)
    entry = _entry(ledger, last)
    usable = entry is not None and entry.revoked_at is None and last.public_key() == presented.public_key()
    return last if usable and last.not_valid_after_utc > presented.not_valid_after_utc else presented


def _public_key(csr: str, name: str) -> ec.EllipticCurvePublicKey:
    try:
        return checked_public_key(csr.encode("ascii"), name)
    except PkiError as exc:
        raise RefusedError(403, str(exc)) from exc


def _key_hash(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
