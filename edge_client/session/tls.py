"""TLS for a device that has no clock of its own, and whose certificate is renewed while it runs.

A Raspberry Pi before the 5 starts with the time it last saved, or with its image's. Until something has
set the clock, a good certificate may look as if it were of the future, and on a site without a time
server that stays so. When OpenSSL refuses a certificate for this reason alone, the clock is behind: from
then on this context leaves the time to us, and we ask only what such a clock can answer, whether the
certificate has expired. Signatures and host name are checked by OpenSSL in every case.
"""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any, cast

log = logging.getLogger(__name__)

NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME


class _Socket(ssl.SSLSocket):
    """A socket that tells its context what became of the handshake."""

    def do_handshake(self, block: bool = False) -> None:
        context = cast(ClientContext, self.context)
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as exc:
            if exc.verify_code == NOT_YET_VALID:
                context.distrust_clock()
            raise
        if context.clock_is_behind:
            context.check_not_expired(cast(dict[str, Any], self.getpeercert()))


class ClientContext(ssl.SSLContext):
    """A client's settings: TLS 1.2 or newer, certificate and host name checked."""

    sslsocket_class = _Socket
    _identity: tuple[str, str] | None = None

    @classmethod
    def trusting(cls, ca_file: str) -> ClientContext:
        """Trust the authorities of one PEM file and nobody else."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name by default
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=ca_file)
        return context

    def use_identity(self, certificate_file: str, key_file: str) -> None:
        """Prove who this is, with what the files hold at each handshake."""
        self._load(certificate_file, key_file)
        self._identity = certificate_file, key_file

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """As the library's; a certificate that was renewed meanwhile is taken up."""
        if self._identity is not None:
            self._load(*self._identity)
        return super().wrap_socket(*arguments, **options)

    def _load(self, certificate_file: str, key_file: str) -> None:
        # An encrypted key would make OpenSSL ask on the terminal, where a service hangs.
        self.load_cert_chain(certificate_file, key_file, password=lambda: b"")

    @property
    def clock_is_behind(self) -> bool:
        """Whether a certificate was seen that begins after this machine's now."""
        return bool(self.verify_flags & NO_CHECK_TIME)

    def distrust_clock(self) -> None:
        """The next handshake leaves the time to `check_not_expired`."""
        if not self.clock_is_behind:
            log.warning("the clock is behind (%s): a certificate begins later", time.strftime("%F %T"))
            self.verify_flags |= NO_CHECK_TIME

    def check_not_expired(self, certificate: dict[str, Any]) -> None:
        """Raise `ssl.SSLCertVerificationError` for a certificate that is over by the best time there is."""
        if ssl.cert_time_to_seconds(certificate["notAfter"]) < self._at_least():
            raise ssl.SSLCertVerificationError("certificate has expired")

    def _at_least(self) -> float:
        """It is this late at least: the authority that we were given exists already."""
        begun = [ssl.cert_time_to_seconds(str(ca["notBefore"])) for ca in self.get_ca_certs()]
        return max([time.time(), *begun])
