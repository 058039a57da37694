"""The enrolment service as a device sees it: three questions over TLS, each answered or refused."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

from compression.records import Record, RecordError, dumps, loads
from edge_client.config import EdgeConfig
from edge_client.enrolment.errors import EnrolmentError, TryLaterError
from edge_client.session.address import AddressError, tls_context
from edge_client.session.tls import NOT_YET_VALID, ClientContext
from edge_client.wire.enrolment import (
    BEARER,
    ENROL_PATH,
    MAX_BODY_BYTES,
    RENEW_PATH,
    REPORT_PATH,
    TOKEN_PATTERN,
    EnrolRequest,
    IssuedCertificate,
    Refusal,
    RenewRequest,
    StepReport,
)

TIMEOUT_S = 20.0  # connect, or one answer, over a weak Wi-Fi
TEMPORARY = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 3600.0
HOW_TO_GET_ONE = "make one with: bramble-provision token issue"


class EnrolmentClient:
    """Asks the service that the settings name. Nothing is sent before it has proved itself."""

    def __init__(self, config: EdgeConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        if config.enrolment is None:
            raise EnrolmentError("the settings have no [enrolment] section; see docs/enrolment.md")
        self._address = replace(
            config.broker,
            host=config.enrolment.host or config.broker.host,
            port=config.enrolment.port,
            certificate_file=None,
            key_file=None,
        )
        self._identity = config.broker.certificate_file, config.broker.key_file
        self._token_file = config.enrolment.token_file
        self._timeout_s = timeout_s
        self._contexts: dict[bool, ClientContext] = {}
        self.reached = False  # whether anything of this fleet has answered yet
        self.server_ahead_s: float | None = None  # of this machine's clock, as the last answer's date says

    def __str__(self) -> str:
        return str(self._address).partition("//")[2]

    def enrol(self, request: EnrolRequest) -> str:
        """The first certificate (PEM), for the token."""
        return self._ask(ENROL_PATH, request, self._bearer())

    def renew(self, request: RenewRequest) -> str:
        """The newest certificate (PEM): a new one once it is due by the service's clock, else the old one."""
        return self._ask(RENEW_PATH, request, {})

    def report(self, report: StepReport, *, enrolled: bool) -> None:
        """Tell how far this device has come, with its certificate, or with its token before it has one."""
        self._exchange(REPORT_PATH, dumps(report), {} if enrolled else self._bearer())

    def check_token(self) -> None:
        """Raise `EnrolmentError` where there is no token to enrol with."""
        self._bearer()

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": BEARER + read_token(self._token_file)}

    # ---- one exchange ----

    def _ask(self, path: str, request: Record, headers: Mapping[str, str]) -> str:
        answer = self._exchange(path, dumps(request), headers)
        try:
            return loads(IssuedCertificate, answer, max_bytes=MAX_BODY_BYTES).certificate
        except RecordError as exc:
            raise EnrolmentError(f"{self}: not the answer of an enrolment service: {exc}") from exc

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        context = self._context(with_identity=not headers)
        try:
            try:
                return self._post(path, body, headers, context)
            except ssl.SSLCertVerificationError as exc:
                if getattr(exc, "verify_code", None) != NOT_YET_VALID:
                    raise
                return self._post(path, body, headers, context)  # the context knows now: the clock is behind
        except ssl.SSLCertVerificationError as exc:
            raise EnrolmentError(f"{self} is not this fleet's enrolment service: {exc}") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise TryLaterError(
                f"{self}: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}"
            ) from exc

    def _post(self, path: str, body: bytes, headers: Mapping[str, str], context: ClientContext) -> bytes:
        host, port = self._address.host, self._address.port
        connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            answer = response.read(MAX_BODY_BYTES)
        finally:
            connection.close()
        self.reached = True
        with contextlib.suppress(ValueError):
            ahead = parsedate_to_datetime(response.getheader("Date") or "").timestamp() - time.time()
            self.server_ahead_s = ahead
        if response.status not in (200, 204):
            raise _refusal(str(self), response.status, answer, response.getheader("Retry-After"))
        return answer

    def _context(self, *, with_identity: bool) -> ClientContext:
        if with_identity not in self._contexts:
            certificate_file, key_file = self._identity if with_identity else (None, None)
            address = replace(self._address, certificate_file=certificate_file, key_file=key_file)
            try:
                context = tls_context(address)
            except AddressError as exc:
                raise EnrolmentError(str(exc)) from exc
            if context is None:
                raise EnrolmentError("enrolment needs ca_file in [broker]: the fleet's authority")
            self._contexts[with_identity] = context
        return self._contexts[with_identity]


def read_token(path: str | None) -> str:
    """The token from its file. What stands there is in no error: it is a secret, if a damaged one."""
    if path is None:
        raise EnrolmentError("no certificate, and no token_file in [enrolment]; see docs/enrolment.md")
    try:
        with Path(path).open("rb") as file:
            token = file.read(MAX_BODY_BYTES).decode("ascii", "replace").strip()
    except OSError as exc:
        raise EnrolmentError(f"token_file {path}: {exc.strerror or exc}; {HOW_TO_GET_ONE}") from exc
    if not re.fullmatch(TOKEN_PATTERN, token):
        raise EnrolmentError(f"token_file {path} holds no enrolment token; {HOW_TO_GET_ONE}")
    return token


def _refusal(who: str, status: int, answer: bytes, retry_after: str | None) -> EnrolmentError:
    try:
        reason = loads(Refusal, answer, max_bytes=MAX_BODY_BYTES).reason
    except RecordError:
        reason = f"HTTP status {status}"
    text = f"{who}: {reason}"
    if status in TEMPORARY:
        wait = retry_after if retry_after and retry_after.isdecimal() else "0"
        return TryLaterError(text, min(float(wait[:6]), LONGEST_WAIT_S))
    return EnrolmentError(text)
