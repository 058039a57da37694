"""What a card or an image carries, looked up without writing: for a card out of a Pi that stays silent."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from provisioning.customise.detect import detect
from provisioning.customise.errors import CustomiseError
from provisioning.customise.ext4 import RootPartition
from provisioning.customise.fat import BootPartition
from provisioning.customise.layout import Layout, read_layout
from provisioning.customise.masking import mask_text, masked
from provisioning.customise.tools import have_tool

STATUS = "bramble/status.log"
MAX_TEXT_BYTES = 1 << 20
SETTINGS = ("user-data", "network-config", "meta-data", "custom.toml", "rpi-preseed.toml", "cmdline.txt")
# Where the client's files lie: on the boot partition of a bundle, in the root file system otherwise.
BUNDLE = "bramble/files"
ROOT_FILES = (
    "/etc/bramble/edge.toml",
    "/etc/bramble/ca.crt",
    "/var/lib/private/bramble/identity/device.crt",
    "/var/lib/private/bramble/identity/device.key",
    "/var/lib/private/bramble/identity/token",
    "/var/lib/private/bramble/status.log",
    "/opt/bramble/pointer.json",
)
KINDS = (".toml", ".crt", ".key", "token")
SECRET_FILES = ("token", "device.key")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate of the card; `days_left` are whole days."""

    place: str
    subject: str
    not_after: datetime
    days_left: int
    expired: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """What was found. No secret is in it."""

    format: str
    evidence: str
    codename: str | None
    architecture: str | None
    settings: Mapping[str, Any]  # by file
    certificates: tuple[Certificate, ...]
    secrets: tuple[str, ...]  # where they are, not what
    status: tuple[str, ...]  # lines of the status log, oldest first
    notes: tuple[str, ...]


def inspect_card(target: Path, *, now: datetime | None = None) -> Carried:
    """Look at an image file or a card.

    Raises:
        CustomiseError: not an image, or a tool is missing.
    """
    now = now or datetime.now(UTC)
    layout = read_layout(target)
    boot = BootPartition(target, layout.boot.offset)
    root, notes = _root(target, layout)
    if "firstrun.sh" in boot.names():
        notes.append("firstrun.sh is still there: the first boot has not come to its end")
    kind, evidence, codename, architecture = _facts(boot, root)
    texts = _boot_texts(boot) | (_root_texts(root) if root else {})
    secret = tuple(place for place in texts if place.rpartition("/")[2] in SECRET_FILES)
    logs = {place: texts[place] for place in texts if place.endswith("status.log")}
    certificates = [
        found
        for place, data in texts.items()
        if place.endswith(".crt")
        for found in _certificates(place, data, now)
    ]
    rest = {place: data for place, data in texts.items() if place not in (*secret, *logs)}
    return Carried(
        format=kind,
        evidence=evidence,
        codename=codename,
        architecture=architecture,
        settings={place: _shown(place, data) for place, data in rest.items() if not place.endswith(".crt")},
        certificates=tuple(certificates),
        secrets=secret,
        status=tuple(_log_lines(logs)),
        notes=tuple(notes),
    )


def _root(target: Path, layout: Layout) -> tuple[RootPartition | None, list[str]]:
    if layout.root is None:
        return None, ["there is no root file system of a kind that can be read"]
    if not have_tool("debugfs"):
        return None, ["the root file system was not looked into: sudo apt install e2fsprogs"]
    return RootPartition(target, layout.root.offset), []


def _facts(boot: BootPartition, root: RootPartition | None) -> tuple[str, str, str | None, str | None]:
    try:
        facts = detect(boot, root)
    except CustomiseError as exc:
        return "unknown", str(exc), None, None
    return facts.format, facts.evidence, facts.codename, facts.architecture


def _boot_texts(boot: BootPartition) -> dict[str, bytes]:
    paths = [name for name in boot.names() if name in SETTINGS]
    paths += [f"{BUNDLE}/{name}" for name in boot.names(BUNDLE) if name.endswith(KINDS)]
    if "bramble/" in boot.names() and "status.log" in boot.names("bramble"):
        paths.append(STATUS)
    found = {path: boot.read(path) for path in paths}
    return {path: data[-MAX_TEXT_BYTES:] for path, data in found.items() if data is not None}


def _root_texts(root: RootPartition) -> dict[str, bytes]:
    found = {path: root.read(path) for path in ROOT_FILES}
    return {path: data[-MAX_TEXT_BYTES:] for path, data in found.items() if data is not None}


def _shown(place: str, data: bytes) -> Any:
    """The settings of one file with stars for secrets; one that its reader could not parse says so."""
    text = data.decode("utf-8", "replace")
    try:
        if place.endswith(".toml"):
            return masked(tomllib.loads(text))
        if place in {"user-data", "meta-data", "network-config"}:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
                return "holds references, which can make much out of little: not shown"
            return masked(yaml.safe_load(text))
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError):
        return "cannot be parsed: the image will ignore it"
    return "\n".join(_printable(line) for line in text.strip().splitlines())


def _certificates(place: str, data: bytes, now: datetime) -> list[Certificate]:
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        return []
    return [_certificate(place, each, now) for each in found]


def _certificate(place: str, found: x509.Certificate, now: datetime) -> Certificate:
    left = found.not_valid_after_utc - now
    subject = _printable(found.subject.rfc4514_string())
    return Certificate(
        place, subject, found.not_valid_after_utc, int(left / timedelta(days=1)), left <= timedelta()
    )


def _log_lines(logs: Mapping[str, bytes]) -> list[str]:
    """Both copies of the log as one, without repeats; a device wrote them, so only what prints is kept."""
    lines: dict[str, None] = {}
    for data in logs.values():
        for line in data.decode("utf-8", "replace").splitlines():
            lines[_printable(line)] = None
    return list(lines)


def _printable(line: str) -> str:
    """Without secrets, and without what a terminal would obey: somebody else may have written it."""
    return mask_text("".join(letter for letter in line if letter.isprintable()))
