"""What a card's root file system gets besides the client: settings, secrets, units, the launcher.

One list for every way to install: pre-baked cards get it written, bundles carry it as ``install.json``, and
`bramble-provision ssh` copies such a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from provisioning.bundle.program import device_program
from provisioning.bundle.settings import (
    CA_FILE,
    CERTIFICATE_FILE,
    FOLDER,
    KEY_FILE,
    TOKEN_FILE,
    edge_toml,
)
from provisioning.card import Card, EnrolmentToken
from provisioning.customise.payload import BOOT_MOUNT, RootFolder, RootLink
from provisioning.systemd.units import IDENTITY, PROGRAM, REAL_STATE, enabled, units

UNIT_FOLDER = "/etc/systemd/system"
WANTED = f"{UNIT_FOLDER}/multi-user.target.wants"
COMMAND_LINK = "/usr/local/bin/bramble-edge"
BUNDLE = BOOT_MOUNT / "bramble"


@dataclass(frozen=True, slots=True)
class SystemFile:
    """A small file of the root file system.

    Attributes:
        path: where it goes.
        content: what it holds.
        mode: its permissions.
        secret: erased from the bundle once it is installed.
        until: path of what a secret is used up for: once that is there, the secret is not installed again.
        state: belongs to the service's user as soon as there is one.
    """

    path: str
    content: bytes
    mode: int = 0o644
    secret: bool = False
    until: str = ""
    state: bool = False


Entry = SystemFile | RootFolder | RootLink


def entries(card: Card, *, from_boot: bool, bundle: PurePosixPath = BUNDLE) -> list[Entry]:
    """Everything but the client, in an order in which it can be made."""
    named = units(_data_path(card), bundle, from_boot=from_boot)
    folders = [
        RootFolder("/var/lib/private", 0o700),
        RootFolder(REAL_STATE, 0o700),
        RootFolder(IDENTITY, 0o700),
    ]
    files = [
        SystemFile(f"{FOLDER}/edge.toml", edge_toml(card)),
        SystemFile(CA_FILE, card.access.ca.strip().encode() + b"\n"),
        *_identity(card),
        SystemFile(PROGRAM, device_program(), 0o755),
        *(SystemFile(f"{UNIT_FOLDER}/{name}", text.encode()) for name, text in named.items()),
    ]
    links = [RootLink(f"{WANTED}/{name}", f"../{name}") for name in enabled(tuple(named))]
    return [*folders, *files, *links, RootLink(COMMAND_LINK, PROGRAM)]


def _identity(card: Card) -> list[SystemFile]:
    certificate = f"{IDENTITY}/{CERTIFICATE_FILE}"
    if isinstance(card.identity, EnrolmentToken):
        token = card.identity.token.value.strip().encode() + b"\n"
        return [SystemFile(f"{IDENTITY}/{TOKEN_FILE}", token, 0o600, True, certificate, True)]
    key = card.identity.key.value.strip().encode() + b"\n"
    issued = card.identity.certificate.strip().encode() + b"\n"
    return [
        SystemFile(f"{IDENTITY}/{KEY_FILE}", key, 0o600, secret=True, state=True),
        SystemFile(certificate, issued, state=True),
    ]


def _data_path(card: Card) -> str:
    """What the service must see: of a list of pictures the folder, since the pictures lie beside it."""
    kind, _, path = card.data.source.partition(":")
    return str(PurePosixPath(path).parent) if kind == "csv" else path
