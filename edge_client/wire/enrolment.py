"""What a device and the enrolment service say to each other: HTTPS, bodies of canonical JSON.

The service proves itself by a certificate of the fleet's authority, which the device knows from its card. The
device proves itself by a one-time token in the ``Authorization`` header, so that it stands in no body that
could reach a log, and once it has one by its certificate. docs/enrolment.md has the course of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compression.records import Between, Length, Matches, Record
from edge_client.wire.topics import DeviceName

ENROL_PATH, RENEW_PATH, REPORT_PATH = "/v1/enrol", "/v1/renew", "/v1/report"
MAX_BODY_BYTES = 8192  # a request with a P-256 key has 400 bytes, a certificate 900
# 256 random bits; the prefix is for people and for secret scanners
TOKEN_PATTERN = r"brt_[A-Za-z0-9_-]{43}"  # noqa: S105
BEARER = "Bearer "

Step = Literal["flash", "network", "time", "install", "enrol", "service", "joined"]
State = Literal["started", "ok", "waiting", "failed"]
Pem = Annotated[str, Matches(r"[A-Za-z0-9+/=\n -]{64,6000}")]
Label = Annotated[str, Matches(r"[ -~]{0,100}")]  # what a board says about itself


@dataclass(frozen=True, slots=True)
class EnrolRequest(Record):
    """A device with a token asks for its first certificate; `csr` is signed by the key it made."""

    name: DeviceName
    csr: Pem
    serial: Label = ""
    model: Label = ""


@dataclass(frozen=True, slots=True)
class RenewRequest(Record):
    """A device with a certificate asks for the next, for the same key and name."""

    csr: Pem


@dataclass(frozen=True, slots=True)
class StepReport(Record):
    """How far a device has come since it was switched on."""

    name: DeviceName
    step: Step
    state: State
    detail: Annotated[str, Length(0, 200)] = ""
    uptime_s: Annotated[float, Between(0.0, 1e9)] = 0.0


@dataclass(frozen=True, slots=True)
class IssuedCertificate(Record):
    """The answer to the first two; a step's report is answered by status 204 alone."""

    certificate: Pem


@dataclass(frozen=True, slots=True)
class Refusal(Record):
    """The answer where there is none: the status says of what kind, the reason says it to a person."""

    reason: Annotated[str, Length(0, 500)]
