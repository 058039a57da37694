"""One card: everything that makes one Raspberry Pi itself, typed and checked before anything is written.

A `Card` says nothing about formats: `provisioning.customise` renders it to whatever the image reads.
Secrets are `Secret`s, whose value appears in no representation, error or log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from compression.errors import BrambleError
from compression.records import Between, Length, Matches, Record, RecordError
from edge_client.config import DataConfig
from edge_client.wire.topics import FleetName

Target = Literal["bookworm-arm64", "bookworm-armhf", "trixie-arm64"]
Mode = Literal["prebaked", "bundle"]
# prebaked: the client lies unpacked in the root file system, nothing has to be installed at first boot.
# bundle: everything lies on the boot partition and an installer runs once; needs no ext4 tools.

HOST_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HostName = Annotated[str, Matches(HOST_LABEL)]
NetworkHost = Annotated[str, Matches(r"[A-Za-z0-9:._-]{1,253}")]  # a name or an address
UserName = Annotated[str, Matches(r"[a-z_][a-z0-9_-]{0,31}")]
SshKey = Annotated[
    str,
    Matches(
        r"(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
        r" [A-Za-z0-9+/]{60,2000}={0,2}( [ -~]{1,200})?"
    ),
]
MAX_PEM = 65_536
CERTIFICATE = re.compile(r"\s*(-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+")


class CardError(BrambleError, ValueError):
    """A card's settings are missing, unknown or impossible; the message names the card and the remedy."""


@dataclass(frozen=True, slots=True)
class Secret(Record):
    """A text that is never shown: ``str()``, ``repr()`` and error messages hold stars."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.value, str) or not 1 <= len(self.value) <= 65_536:
            raise RecordError("a secret must be a text of 1 to 65536 characters")

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Wifi(Record):
    """One wireless network. Without a country the radio stays blocked, so it has no default.

    `passphrase` is 8 to 63 printable ASCII characters, or the 64 hexadecimal digits of a derived key;
    None only for a network that is open and said to be (`open_network`).
    """

    ssid: Annotated[str, Length(1, 32)]
    country: Annotated[str, Matches(r"[A-Z]{2}")]
    passphrase: Secret | None
    hidden: bool = False
    open_network: bool = False

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not 1 <= len(self.ssid.encode()) <= 32:
            raise RecordError(f"Wifi.ssid must be 1 to 32 bytes of UTF-8, got {self.ssid!r}")
        if (self.passphrase is None) != self.open_network:
            raise RecordError("Wifi: give a passphrase, or say open_network = true; not both, not neither")
        given = self.passphrase.value if self.passphrase else None
        if given is not None and not re.fullmatch(r"[ -~]{8,63}|[0-9a-fA-F]{64}", given):
            raise RecordError("Wifi.passphrase must be 8 to 63 printable ASCII characters, or 64 hex digits")


def _are_certificates(text: str) -> bool:
    """A check of our own: a `Matches` would quote the text, and the wrong file may be a secret."""
    return len(text) <= MAX_PEM and CERTIFICATE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Endpoint(Record):
    """Where a service listens."""

    host: NetworkHost
    port: Annotated[int, Between(1, 65535)]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FleetAccess(Record):
    """What a device must know to find its fleet and nobody else."""

    fleet: FleetName
    server_key: Annotated[str, Matches(r"[0-9a-f]{64}")]
    broker: Endpoint
    ca: str  # PEM: the fleet's authority
    enrolment: Endpoint | None = None  # needed by a token only

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not _are_certificates(self.ca):
            raise RecordError("FleetAccess.ca must be one or more PEM certificates and nothing else")


@dataclass(frozen=True, slots=True)
class EnrolmentToken(Record):
    """The device makes its own key and gets a certificate for this token, which works once."""

    TAG: ClassVar[str] = "token"
    token: Secret


@dataclass(frozen=True, slots=True)
class IssuedCertificate(Record):
    """A certificate and its key made beforehand, for fleets that cannot reach an enrolment service."""

    TAG: ClassVar[str] = "certificate"
    certificate: str  # PEM
    key: Secret  # PEM

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not _are_certificates(self.certificate):
            raise RecordError("IssuedCertificate.certificate must be PEM certificates and nothing else")
        if "PRIVATE KEY-----" not in self.key.value:
            raise RecordError("IssuedCertificate.key is not a PEM private key")


@dataclass(frozen=True, slots=True)
class Card(Record):
    """One device from its name to its data."""

    name: HostName  # the device's name in the fleet, and its host name
    target: Target
    access: FleetAccess
    identity: EnrolmentToken | IssuedCertificate
    data: DataConfig
    mode: Mode = "prebaked"
    user: UserName = "pi"
    ssh_keys: tuple[SshKey, ...] = ()
    password_hash: Secret | None = None  # crypt(3), as `openssl passwd -6`; None: no login by password
    wifi: Wifi | None = None  # None: by cable
    # None: as the image has it.
    locale: Annotated[str, Matches(r"[a-z]{2,3}_[A-Z]{2}(\.UTF-8)?|C\.UTF-8")] | None = None
    keymap: Annotated[str, Matches(r"[a-z]{2,12}")] | None = None
    timezone: Annotated[str, Matches(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")] = "Etc/UTC"
    watchdog: bool = True  # the board resets itself when the system hangs
    card_sparing: bool = True  # volatile journal, noatime, no swap on the card, /tmp in memory

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.user == "root":
            raise RecordError("Card.user must not be root: log in as a user and use sudo")
        if isinstance(self.identity, EnrolmentToken) and self.access.enrolment is None:
            raise RecordError(
                "Card.access.enrolment is missing: a token needs the enrolment service's address"
            )
        if self.password_hash and not re.fullmatch(
            r"\$(y|5|6|7|gy)\$[A-Za-z0-9./$=,]{8,400}", self.password_hash.value
        ):
            raise RecordError("Card.password_hash must be a crypt hash ($6$... or $y$...), not a password")
