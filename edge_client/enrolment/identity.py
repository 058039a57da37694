"""A device's key and certificate on its disk, and where they stand.

::

    <key_file>          0600, born with this mode; never leaves the device, never replaced
    <certificate_file>  replaced whole, and only by one that fits the key, the name and the authority
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_client.config import EdgeConfig
from edge_client.enrolment.errors import EnrolmentError
from edge_client.enrolment.keys import common_name, new_key, private_pem, signing_request
from edge_client.files import write_atomically
from edge_client.wire.enrolment import MAX_BODY_BYTES

RENEW_SHARE = 1 / 3  # of the lifetime left: from then on there is time for a holiday and a repair
Standing = Literal["none", "good", "due", "expired"]


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Where one device keeps what proves who it is."""

    name: str
    key_file: Path
    certificate_file: Path
    ca_file: Path

    @classmethod
    def of(cls, config: EdgeConfig) -> DeviceIdentity:
        """The files of the settings' ``[broker]``; `EnrolmentError` where they name none."""
        broker = config.broker
        if broker.ca_file is None or broker.certificate_file is None or broker.key_file is None:
            raise EnrolmentError("enrolment needs ca_file, certificate_file and key_file in [broker]")
        return cls(config.name, Path(broker.key_file), Path(broker.certificate_file), Path(broker.ca_file))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time makes a key or stores a certificate."""
        self.key_file.parent.mkdir(parents=True, exist_ok=True)
        with (self.key_file.parent / ".enrolment.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def certificate(self) -> x509.Certificate | None:
        """The certificate that is there; None without one, and for one of another fleet, name or key."""
        try:
            return self._checked(self.certificate_file.read_bytes())
        except (OSError, EnrolmentError):
            return None

    def standing(self, now: datetime | None = None) -> Standing:
        """Where the certificate stands by this machine's clock, which may be behind."""
        certificate = self.certificate()
        if certificate is None:
            return "none"
        now = now or datetime.now(UTC)
        if certificate.not_valid_after_utc <= now:
            return "expired"
        return "due" if is_due(certificate, now) else "good"

    def request(self) -> str:
        """The request for a certificate, PEM. The key is made if there is none; one that is there stays."""
        if not self.key_file.exists():
            write_atomically(self.key_file, private_pem(new_key()))
        return signing_request(self._key(), self.name).decode("ascii")

    def store(self, pem: str) -> None:
        """Keep a new certificate; `EnrolmentError` for one that is not this device's."""
        data = pem.encode("ascii")
        self._checked(data)
        write_atomically(self.certificate_file, data, mode=0o644)

    def _checked(self, pem: bytes) -> x509.Certificate:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            authorities = x509.load_pem_x509_certificates(self.ca_file.read_bytes())
        except ValueError as exc:
            raise EnrolmentError(f"the certificate or {self.ca_file} is not PEM") from exc
        if not any(_made_by(authority, certificate) for authority in authorities):
            raise EnrolmentError(f"the certificate is not one that the authority in {self.ca_file} made")
        if (
            certificate.subject != common_name(self.name)
            or certificate.public_key() != self._key().public_key()
        ):
            raise EnrolmentError(f"the certificate is for another name or key than {self.name}'s")
        return certificate

    def _key(self) -> ec.EllipticCurvePrivateKey:
        data = self.key_file.read_bytes()
        try:
            key = serialization.load_pem_private_key(data[:MAX_BODY_BYTES], password=None)
        except (ValueError, TypeError) as exc:
            raise EnrolmentError(f"{self.key_file} is not an unencrypted PEM key; move it away") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrolmentError(f"{self.key_file} is not an elliptic-curve key; move it away")
        return key


def _made_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether so little of a certificate's life is left that it is to be renewed."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life * RENEW_SHARE
